"""All that is known of each kind of export, one row each.

Nothing else compares a kind's name: code asks for a property of its row. Nothing here imports a library; what writes a kind is in
the package `export`.
"""

from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from posttrain.methods import METHODS
from posttrain.objectives import OBJECTIVES
from posttrain.runtime.errors import UserError, nearest

TRANSFORMERS_SERVERS = ("vllm", "transformers")


@dataclass(frozen=True, kw_only=True)
class Export:
    """What an export is, who runs it, and what follows from that for writing and for the proof."""

    words: str
    """what it is"""
    program: Literal["transformers", "llama.cpp"]
    """the program that runs it, and therefore proves it"""
    bits: float
    """of a weight, about: for the estimate of the disk that it takes"""
    servers: tuple[str, ...]
    """programs that serve it, the first choice first"""
    needs: str | None = None
    """the package, or the program on PATH, that writing it takes besides what is always installed"""
    dtype: str | None = None
    """torch's name of its weights' type, where they are only rounded to it"""
    quantiser: Literal["bitsandbytes", "torchao"] | None = None
    """the library through which transformers quantises it"""
    gguf: str | None = None
    """llama.cpp's name of its weights' type, where it is a GGUF file"""
    is_adapter: bool = False
    """it is what training added, without the base"""
    of_reward_models: bool = False
    """a reward model can be one"""


def _gguf(words: str, bits: float, gguf: str, needs: str | None = None) -> Export:
    return Export(words=words, program="llama.cpp", bits=bits, servers=("llama.cpp",), gguf=gguf, needs=needs)


EXPORTS: dict[str, Export] = {
    "bf16": Export(
        words="safetensors in bfloat16",
        program="transformers",
        bits=16,
        servers=TRANSFORMERS_SERVERS,
        dtype="bfloat16",
        of_reward_models=True,
    ),
    "fp16": Export(
        words="safetensors in float16",
        program="transformers",
        bits=16,
        servers=TRANSFORMERS_SERVERS,
        dtype="float16",
        of_reward_models=True,
    ),
    "adapter": Export(
        words="the adapter, with the hash of the base that it belongs to",
        program="transformers",
        bits=0,  # beside the weights of a base
        servers=TRANSFORMERS_SERVERS,
        is_adapter=True,
        of_reward_models=True,
    ),
    "gguf-f16": _gguf("GGUF in float16", 16, "F16"),
    "gguf-q8_0": _gguf("GGUF in 8 bits", 8.5, "Q8_0"),
    "gguf-q4_k_m": _gguf("GGUF in 4 bits", 5, "Q4_K_M", "llama-quantize"),
    "gguf-q5_k_m": _gguf("GGUF in 5 bits", 6, "Q5_K_M", "llama-quantize"),
    "gguf-q6_k": _gguf("GGUF in 6 bits", 6.6, "Q6_K", "llama-quantize"),
    "nf4": Export(
        words="4-bit normal floats of bitsandbytes",
        program="transformers",
        bits=4.5,
        servers=TRANSFORMERS_SERVERS,
        needs="bitsandbytes",
        quantiser="bitsandbytes",
    ),
    "int8": Export(
        words="8-bit integers of bitsandbytes (LLM.int8)",
        program="transformers",
        bits=8,
        servers=TRANSFORMERS_SERVERS,
        needs="bitsandbytes",
        quantiser="bitsandbytes",
    ),
    "int8-torchao": Export(
        words="8-bit integers of torchao, weights only",
        program="transformers",
        bits=8,
        servers=TRANSFORMERS_SERVERS,
        needs="torchao",
        quantiser="torchao",
    ),
}

# Kinds that people ask for and that no exporter makes with these versions.
LEFT_OUT = MappingProxyType(
    {
        "onnx": "optimum-onnx needs transformers < 4.58",
        "fp8": "llm-compressor needs transformers <= 5.17",
        "awq": "llm-compressor needs transformers <= 5.17",
        "gptq": "llm-compressor needs transformers <= 5.17",
    }
)


def refusal(kind: str, method: str, objective: str) -> str | None:
    """Why a run of this method and objective cannot have an export of this kind, or None.

    >>> refusal("nf4", "prefix", "sft")
    'a run with method: prefix cannot be merged into its base'
    >>> refusal("gguf-f16", "lora", "reward")
    'a reward model generates no text, which llama.cpp would run it for'
    """
    row = EXPORTS[kind]
    if row.is_adapter and METHODS[method].full:
        return "a run with method: full trains the whole model, and has no adapter"
    if not row.is_adapter and not METHODS[method].mergeable:
        return f"a run with method: {method} cannot be merged into its base"
    if OBJECTIVES[objective].classifier:
        return "a classifier ships as model/, which transformers loads as it is"
    if OBJECTIVES[objective].reward_model and not row.of_reward_models:
        return f"a reward model generates no text, which {row.program} would run it for"
    return None


def possible(method: str, objective: str) -> list[str]:
    """The kinds that a run of this method and objective can have."""
    return [kind for kind in EXPORTS if refusal(kind, method, objective) is None]


def check(place: str, kind: str, method: str, objective: str) -> None:
    """Refuse a kind that a run of this method and objective cannot have.

    Args:
        place: where it was asked for.

    Raises:
        UserError: there is no such kind, these versions make none, or the run has none.
    """
    others = possible(method, objective)
    if kind in LEFT_OUT:
        raise UserError(
            "unsupported-export", place, f"there is no export '{kind}': {LEFT_OUT[kind]}", nearest("", others)
        )
    if kind not in EXPORTS:
        raise UserError("unsupported-export", place, f"there is no export '{kind}'", nearest(kind, others))
    if why := refusal(kind, method, objective):
        raise UserError("unsupported-export", place, why, nearest("", others))
