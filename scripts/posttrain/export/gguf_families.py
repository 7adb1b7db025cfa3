"""The model families that a GGUF file can hold as llama.cpp computes them, and what of a model llama.cpp would compute otherwise.

Source: llama.cpp, src/models/*.cpp (which tensors and keys each architecture reads) and conversion/*.py, release v0.4.0.
"""

import math
from dataclasses import dataclass
from typing import Any

_GELU = ("gelu_pytorch_tanh", None)  # Gemma's configuration may leave it out
_QKV = ("attn_q", "attn_k", "attn_v")


@dataclass(frozen=True, kw_only=True)
class Family:
    """How a family's weights and numbers go into a GGUF file."""

    architecture: str
    """llama.cpp's name"""
    pairs: bool = False
    """llama.cpp rotates neighbouring numbers of a head where transformers rotates its halves: rows of q and k are reordered"""
    shifted_norms: bool = False
    """transformers adds 1 to the norms' weights when it computes, llama.cpp does not"""
    activations: tuple[str | None, ...] = ("silu",)
    biases: tuple[str, ...] = ()
    """tensors, as llama.cpp calls them, whose bias it reads"""
    ropes: tuple[str, ...] = ("default", "linear", "yarn")
    """kinds of rope scaling that it computes alike"""
    windows: int = 0
    """it computes a sliding window in all layers but each n-th; 0: in none"""
    untied_head: bool = True
    """it reads an LM head of its own"""


_LLAMA = Family(
    architecture="llama",
    pairs=True,
    biases=(*_QKV, "attn_output", "ffn_gate", "ffn_up", "ffn_down"),
    ropes=("default", "linear", "yarn", "llama3"),
)
FAMILIES = {
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": Family(architecture="qwen2", biases=_QKV),
    "qwen3": Family(architecture="qwen3", biases=_QKV),
    "smollm3": Family(architecture="smollm3", pairs=True, biases=_QKV),
    "gemma": Family(
        architecture="gemma", shifted_norms=True, activations=("gelu", *_GELU), ropes=("default",), untied_head=False
    ),
    "gemma2": Family(
        architecture="gemma2", shifted_norms=True, activations=_GELU, ropes=("default",), windows=2,
        untied_head=False,
    ),
    "gemma3_text": Family(
        architecture="gemma3", shifted_norms=True, activations=_GELU, ropes=("default", "linear"), windows=6
    ),
}  # fmt: skip


def refusal(config: dict[str, Any]) -> str | None:
    """Why a model cannot be exported as GGUF; None where it can, as far as its configuration tells.

    Args:
        config: of config.json, with transformers' defaults or without.
    """
    kind = config.get("model_type")
    names = config.get("architectures") or []
    if any("SequenceClassification" in name for name in names):
        return "it is a reward model, and GGUF exports hold models that answer with text"
    if kind not in FAMILIES:
        return f"GGUF exports are written for {', '.join(FAMILIES)}, and this model is of the family {kind}"
    if config.get("quantization_config"):
        return "its weights are quantised already"
    family = FAMILIES[kind]
    activation = config.get("hidden_activation", config.get("hidden_act", family.activations[0]))
    if activation not in family.activations:
        return f"llama.cpp computes {kind} with {family.activations[0]}, and this model has {activation}"
    if not family.untied_head and config.get("tie_word_embeddings") is False:
        return f"llama.cpp reads no LM head of a {kind}, and this model's is not its embeddings"
    layers = config.get("layer_types") or []
    if family.windows and any(
        (layer == "sliding_attention") != bool((i + 1) % family.windows) for i, layer in enumerate(layers)
    ):
        return f"llama.cpp gives a sliding window to each layer of a {kind} but every {family.windows}th, and this model to others"
    return _heads_refusal(kind, config) or _rope_refusal(kind, family, config)


def _heads_refusal(kind: str, config: dict[str, Any]) -> str | None:
    """What is special in the attention of one family."""
    width, heads, size = (config.get(key) for key in ("hidden_size", "num_attention_heads", "head_dim"))
    if kind == "qwen2" and size and size * heads != width:
        return (
            f"llama.cpp computes a qwen2 with heads of hidden_size / num_attention_heads, and this model's have {size}"
        )
    if kind == "smollm3" and "no_rope_layers" in config:
        usual = [int((i + 1) % 4 != 0) for i in range(config["num_hidden_layers"])]
        if list(map(int, config["no_rope_layers"])) != usual:
            return "llama.cpp leaves the positions out of each fourth layer of a smollm3, and this model of others"
    scale = config.get("query_pre_attn_scalar")
    if scale is not None:
        whole = config["num_hidden_layers"] == {"gemma2": 46, "gemma3_text": 62}.get(kind)  # the 27B ones
        known = width // heads if whole else size
        if scale != known:
            return f"llama.cpp scales this {kind}'s attention by {known}, and its query_pre_attn_scalar is {scale}"
    if kind == "gemma2" and not (config.get("attn_logit_softcapping", 1) and config.get("final_logit_softcapping", 1)):
        return "llama.cpp caps the logits of a gemma2, and this model has a cap switched off"
    if config.get("attn_logit_softcapping") and kind != "gemma2":
        return f"llama.cpp does not cap the attention's logits of a {kind}"
    if config.get("use_bidirectional_attention"):
        return "its attention looks ahead, so it generates no text"
    return None


def _rope_refusal(kind: str, family: Family, config: dict[str, Any]) -> str | None:
    for rope in ropes(config).values():
        name = rope.get("rope_type", "default")
        if name not in family.ropes:
            return f"llama.cpp computes {kind} with the rope types {', '.join(family.ropes)}, and this model has {name}"
        if rope.get("partial_rotary_factor") not in (None, 1, 1.0):
            return "only a part of its heads is rotated"
        if name == "yarn" and (
            rope.get("truncate") is False or rope.get("mscale") or rope.get("mscale_all_dim") or not rope.get("factor")
        ):
            return "llama.cpp knows no truncate, mscale or missing factor of a rope of type yarn"
    if "sliding_attention" in ropes(config) and ropes(config)["sliding_attention"].get("rope_type") not in (
        None,
        "default",
    ):
        return "llama.cpp scales no rope of layers with a sliding window"
    return None


def ropes(config: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The rope of each kind of layer: `full_attention`, and `sliding_attention` where it has its own."""
    found = config.get("rope_parameters") or {}
    if "full_attention" in found or "sliding_attention" in found:
        return {kind: rope for kind, rope in found.items() if rope}
    older = config.get("rope_scaling") or {}
    rope = older | found
    if "type" in rope and "rope_type" not in rope:
        rope["rope_type"] = rope["type"]
    if config.get("rope_theta") and "rope_theta" not in rope:
        rope["rope_theta"] = config["rope_theta"]
    return {"full_attention": rope}


def context(config: dict[str, Any]) -> int:
    """The longest text, in tokens, that llama.cpp computes as transformers does.

    llama.cpp computes no sliding windows for most families, so there it is not longer than the window.
    """
    longest = config["max_position_embeddings"]
    window = config.get("sliding_window")
    slides = "sliding_attention" in (config.get("layer_types") or ["sliding_attention" if window else ""])
    if window and slides and not FAMILIES[config["model_type"]].windows:
        return min(longest, window)
    return longest


def head_size(config: dict[str, Any]) -> int:
    """Numbers of an attention head."""
    return config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]


def rope_factors(config: dict[str, Any]) -> list[float] | None:
    """By how much each frequency is divided, where the rope's type is llama3; as transformers' `_compute_llama3_parameters`."""
    rope = ropes(config)["full_attention"]
    if rope.get("rope_type") != "llama3":
        return None
    factor, low, high = rope["factor"], rope["low_freq_factor"], rope["high_freq_factor"]
    old, size = rope["original_max_position_embeddings"], head_size(config)
    factors = []
    for i in range(0, size, 2):
        length = 2 * math.pi * rope["rope_theta"] ** (i / size)
        smooth = min(1.0, max(0.0, (old / length - low) / (high - low)))
        factors.append(1 / ((1 - smooth) / factor + smooth))
    return factors


def metadata(writer: Any, config: dict[str, Any]) -> None:
    """Write the numbers of the architecture.

    Args:
        writer: a gguf.GGUFWriter.
        config: with transformers' defaults.
    """
    kind, size = config["model_type"], head_size(config)
    family = FAMILIES[kind]
    writer.add_vocab_size(config["vocab_size"])
    writer.add_context_length(context(config))
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config.get("num_key_value_heads") or config["num_attention_heads"])
    writer.add_key_length(size)
    writer.add_value_length(size)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_dimension_count(size)
    _rope(writer, ropes(config))
    if family.windows:
        writer.add_sliding_window(config["sliding_window"])
    if kind == "gemma2":
        writer.add_attn_logit_softcapping(config["attn_logit_softcapping"])
    if config.get("final_logit_softcapping"):
        writer.add_final_logit_softcapping(config["final_logit_softcapping"])


def _rope(writer: Any, kinds: dict[str, dict[str, Any]]) -> None:
    from gguf import RopeScalingType

    rope = kinds["full_attention"]
    writer.add_rope_freq_base(rope["rope_theta"])
    if "sliding_attention" in kinds:
        writer.add_rope_freq_base_swa(kinds["sliding_attention"]["rope_theta"])
    scaling = rope.get("rope_type")
    if scaling in ("linear", "yarn"):
        writer.add_rope_scaling_type(RopeScalingType(scaling))
        writer.add_rope_scaling_factor(rope["factor"])
    if scaling == "yarn":
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
        writer.add_rope_scaling_yarn_beta_fast(rope.get("beta_fast") or 32.0)
        writer.add_rope_scaling_yarn_beta_slow(rope.get("beta_slow") or 1.0)
        if rope.get("attention_factor"):  # llama.cpp multiplies the usual factor by it, transformers takes it instead
            writer.add_rope_scaling_attn_factors(rope["attention_factor"] / (1 + 0.1 * math.log(rope["factor"])))
