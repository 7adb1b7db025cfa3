"""Which servers take an adapter, and why another does not; the card that says so.

The facts are from the sources of the versions in `VERSIONS`: vLLM's `lora/peft_helper.py`, `lora/utils.py` and `config/lora.py`, and
llama.cpp's `convert_lora_to_gguf.py` and `src/llama-adapter.h`.
"""

from importlib.metadata import version
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData
from safetensors import safe_open

from posttrain.methods import METHODS
from posttrain.models.adapters import UNCHANGED_BASE, beyond_lora
from posttrain.models.combined_lora import MATRIX
from posttrain.objectives import OBJECTIVES

VERSIONS = {"vllm": "0.33.0", "llama.cpp": "0c1e570 (2026-11)"}
VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)

Verdict = dict[str, Any]
"""`can`, and `why`: what it takes, or what is in the way"""


def servers(config: dict[str, Any], weights: Path, base: dict[str, Any]) -> dict[str, Verdict]:
    """What PEFT, posttrain's server, vLLM and llama.cpp make of an adapter.

    Args:
        config: its adapter_config.json.
        weights: its safetensors.
        base: what posttrain.json says of the base.
    """
    with safe_open(weights, "pt") as file:
        other = [key for key in file.keys() if not MATRIX.fullmatch(key)]  # noqa: SIM118 (a file is no mapping)
    held = ", in 4 bits and computed back (dequantised)" if base["held"] else ""
    mixed = beyond_lora(config)
    own = {
        "can": mixed is None,
        "why": f"beside other adapters of the base{held}" if mixed is None else f"{mixed}: serve the merged model",
    }
    return {
        "peft": {"can": True, "why": f"over the base{held}"},
        "posttrain": own,
        "vllm": _verdict(_vllm(config, other), _vllm_takes(config, base)),
        "llama.cpp": _verdict(_llama_cpp(config, other), _llama_cpp_takes(base)),
    }


def _verdict(refusal: str | None, takes: str) -> Verdict:
    return {"can": refusal is None, "why": refusal or takes}


def _vllm(config: dict[str, Any], other: list[str]) -> str | None:
    """Why vLLM refuses an adapter; `other` are tensors that are no LoRA matrices."""
    if config["peft_type"] != "LORA":
        return f"it takes LoRA only, not {config['peft_type']}"
    saved = [name for name in config.get("modules_to_save") or [] if name not in ("score", "classifier")]
    if saved:
        return f"it takes no modules_to_save ({', '.join(saved)})"
    if config.get("use_dora"):
        return "it takes no DoRA"
    if config.get("init_lora_weights") not in UNCHANGED_BASE:
        return f"init_lora_weights: {config['init_lora_weights']} changes the base's weights when PEFT loads it"
    fields = ("lora_bias", "alora_invocation_tokens", "layer_replication", "use_bdlora", "use_qalora")
    for field in fields:
        if config.get(field):
            return f"it takes no {field}"
    if config.get("bias", "none") != "none":
        return f"it takes no bias ({config['bias']})"
    unknown = [key for key in other if not key.endswith(("score.weight", ".base_layer.weight"))]
    if unknown:
        return f"it refuses the tensor {unknown[0]}"
    if _rank(config) > VLLM_RANKS[-1]:
        return f"its largest rank is {VLLM_RANKS[-1]}, and this one's is {_rank(config)}"
    return None


def _vllm_takes(config: dict[str, Any], base: dict[str, Any]) -> str:
    if config["peft_type"] != "LORA":
        return ""
    rank = next((some for some in VLLM_RANKS if some >= _rank(config)), VLLM_RANKS[-1])
    held = "; over the base that is not in 4 bits its answers drift, see merge.json" if base["held"] else ""
    return f"--enable-lora --max-lora-rank {rank}{held}"


def _llama_cpp(config: dict[str, Any], other: list[str]) -> str | None:
    """Why convert_lora_to_gguf.py or llama.cpp refuses an adapter, or would compute another one."""
    if config["peft_type"] != "LORA":
        return f"it takes LoRA only, not {config['peft_type']}"
    if config["task_type"] != "CAUSAL_LM":
        return "a reward model generates no text"
    if config.get("init_lora_weights") not in UNCHANGED_BASE:
        return f"init_lora_weights: {config['init_lora_weights']} changes the base's weights when PEFT loads it"
    unknown = [key for key in other if not key.endswith(".base_layer.weight")]
    if unknown:
        return f"its converter refuses the tensor {unknown[0]}"
    if config.get("use_rslora") or config.get("alpha_pattern"):
        return "it reads one alpha and divides it by the rank, which is not this adapter's scaling"
    return None


def _llama_cpp_takes(base: dict[str, Any]) -> str:
    held = " The base is to be the dequantised one." if base["held"] else ""
    return f"after convert_lora_to_gguf.py --base BASE, with llama-server --lora.{held}"


def _rank(config: dict[str, Any]) -> int:
    return max([config["r"], *(config.get("rank_pattern") or {}).values()])


# ---- the card

LOAD = """{first}import torch
from peft import PeftModel
from transformers import {family}, AutoTokenizer

base = {family}.from_pretrained("BASE", dtype=torch.float32{options})
model = PeftModel.from_pretrained(base, "FOLDER")
tokenizer = AutoTokenizer.from_pretrained("FOLDER")"""

BOTTLENECK = "import posttrain.models.bottleneck  # a method that is not one of PEFT's own\n"
TEXT = """
# {run}: adapter

{what}, made with posttrain.

## The base

It belongs to **{name}** and to no other model; with another one its answers are wrong without an error. {held}

| file | SHA-256 |
|---|---|
{files}

## Usage

```python
{load}
```

## Servers

| program | takes it | why |
|---|---|---|
{servers}

Checked in the sources of vLLM {vllm} and llama.cpp {llama_cpp}; PEFT is {peft}.
"""
WORDS = {"peft": "PEFT", "posttrain": "`posttrain serve --adapters`", "vllm": "vLLM", "llama.cpp": "llama.cpp"}


def card(record: dict[str, Any], config: dict[str, Any], spec: dict[str, Any]) -> str:
    """The text of README.md.

    Args:
        record: what posttrain.json says.
        config: the adapter's configuration.
        spec: the run's.
    """
    base, stages = record["base"], record["stages"]
    reward = OBJECTIVES[spec["objective"]].scores
    kind = f"{config['peft_type']}, rank {_rank(config)}" if "r" in config else config["peft_type"]
    chain = f" It is the adapters of {' and '.join(f'`{name}`' for name in stages)} in one." if len(stages) > 1 else ""
    data = ModelCardData(
        base_model=base["name"] if "/" in base["name"] else None,
        library_name="peft",
        pipeline_tag="text-classification" if reward else "text-generation",
        tags=["posttrain", spec["objective"], spec["method"]],
    )
    text = TEXT.format(
        run=record["run"],
        what=f"{spec['objective'].upper()}, {kind}{'.' if chain else ''}{chain}".rstrip("."),
        name=base["name"],
        held="It was trained on that base in 4 bits (NF4), computed back for the adapter." if base["held"] else "",
        files="\n".join(f"| {name} | `{value}` |" for name, value in base["files"].items()),
        load=LOAD.format(
            family="AutoModelForSequenceClassification" if reward else "AutoModelForCausalLM",
            options=", num_labels=1" if reward else "",
            first=BOTTLENECK if METHODS[spec["method"]].wraps_blocks else "",
        ),
        servers="\n".join(
            f"| {WORDS[name]} | {'yes' if found['can'] else 'no'} | {found['why']} |"
            for name, found in record["servers"].items()
        ),
        vllm=VERSIONS["vllm"],
        llama_cpp=VERSIONS["llama.cpp"],
        peft=version("peft"),
    )
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n{text}"))
