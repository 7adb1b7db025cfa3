"""Which matrices get an adapter, family by family: what `all-linear` leaves out, and the names that cannot have one.

It works on the names and shapes of modules, as a model's files or the model itself have them, so that the preflight asks
without loading anything.
"""

import re
from collections.abc import Collection, Iterable
from typing import Any

from posttrain.methods import METHODS
from posttrain.models import parts
from posttrain.objectives import OBJECTIVES

EXPERT_COUNTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
ROUTERS = {"gate", "router", "shared_expert_gate"}
# Names that PEFT's LoRA, in a mixture of experts, takes for the router and the fused matrices of the experts.
GATE_AND_UP = ({"gate_proj", "up_proj"}, {"w1", "w3"})
EXPERTS = set().union(*GATE_AND_UP, {"down_proj", "w2"})
CONV1D = ("gpt2", "openai-gpt", "imagegpt", "decision_transformer")  # their matrices are (inputs, outputs)
HEADS = {"lm_head", "embed_out", "embed_tokens", "wte", "embed_in", "word_embeddings"}
OUTPUTS = {"lm_head", "embed_out"}
# IA3 scales keys, values and what goes into the last matrix of a feed-forward block; a fused projection as a whole.
KEYS_AND_VALUES = (("k_proj", "v_proj"), ("qkv_proj",), ("query_key_value",), ("c_attn",), ("Wqkv",))
LAST = ("down_proj", "fc2", "dense_4h_to_h", "w2", "mlp.c_proj")

Shape = tuple[int, ...]


def is_mixture(config: dict[str, Any]) -> bool:
    """Whether config.json (of the text part) is that of a mixture of experts."""
    return any((config.get(name) or 0) > 1 for name in EXPERT_COUNTS)


def largest_rank(method: str, shape: Shape) -> int:
    """Of an adapter on a matrix."""
    return int(min(shape) / METHODS[method].initial_rank)


def is_read_past(name: str, modules: Collection[str]) -> bool:
    """Whether a module is a part of a Mamba mixer whose weight fused kernels read past an adapter."""
    mixer, _, leaf = name.rpartition(".")
    return leaf in ("out_proj", "conv1d") and {f"{mixer}.conv1d", f"{mixer}.in_proj"} <= set(modules)


def left_out(spec: dict, matrices: dict[str, Shape], modules: Collection[str], config: dict) -> dict[str, str]:
    """The matrices that `all-linear` leaves out, each with the reason.

    Args:
        matrices: the shapes of those that PEFT would take.
        modules: all modules with a weight.
        config: config.json, of the text part.
    """
    mixture, modules, reasons = is_mixture(config), set(modules), {}
    for name, shape in matrices.items():
        names = name.split(".")
        if (part := parts.part_of(name)) not in parts.trained(spec):
            reasons[name] = f"{part}, which is not among train_parts"
        elif mixture and ROUTERS & set(names):
            reasons[name] = "routers"
        elif mixture and ("experts" in names or names[-1] in EXPERTS):
            reasons[name] = "experts"
        elif is_read_past(name, modules):
            reasons[name] = "what fused Mamba kernels read without an adapter"
        elif (
            "rank" in spec
            and METHODS[spec["method"]].bounded_rank
            and spec["rank"] > largest_rank(spec["method"], shape)
        ):
            reasons[name] = f"matrices smaller than rank {spec['rank']}"
    return reasons


def told(reasons: dict[str, str]) -> str:
    """What `all-linear` leaves out, in a line."""
    kinds: dict[str, dict[str, None]] = {}
    for name, reason in reasons.items():
        kinds.setdefault(reason, {})[re.sub(r".*\.\d+\.", "", name)] = None
    return "; ".join(f"{reason} ({', '.join(names)})" for reason, names in kinds.items())


def refusal(
    spec: dict, target: str, found: Iterable[str], modules: Collection[str], config: dict, tied: bool
) -> str | None:
    """Why an adapter cannot be on what a named target means, and what to write instead.

    Args:
        target: one of `target_modules`.
        found: the modules that it matches.
        modules: all modules with a weight.
        tied: whether the LM head is the embedding.
    """
    found = list(found)
    past = next((name for name in found if is_read_past(name, modules)), None)
    if past:
        return f"'{target}' matches {past}, whose weight fused Mamba kernels read without an adapter; take it out"
    head = next((name for name in found if name.rpartition(".")[2] in HEADS), None)
    if head and tied:
        return (
            f"'{target}' matches {head}, and the model's embedding and LM head are one matrix, so that an adapter on one of "
            "them cannot be merged; write peft_args: {modules_to_save: [" + head.rpartition(".")[2] + "]} instead"
        )
    output = next((name for name in found if name.rpartition(".")[2] in OUTPUTS), None)
    if output and OBJECTIVES[spec["objective"]].fused_head:
        return (
            f"'{target}' matches {output}, and TRL multiplies by the LM head's own weight, so that an adapter on it would not be "
            "trained; write peft_args: {modules_to_save: [" + output.rpartition(".")[2] + "]} instead"
        )
    if is_mixture(config) and METHODS[spec["method"]].low_rank:
        return _expert_refusal(spec, target)
    return None


def _expert_refusal(spec: dict, target: str) -> str | None:
    leaf = target.rpartition(".")[2]
    if leaf not in EXPERTS | ROUTERS:
        return None
    requested = spec["target_modules"] if isinstance(spec["target_modules"], list) else [spec["target_modules"]]
    leaves = {name.rpartition(".")[2] for name in requested}
    halves = next((pair for pair in GATE_AND_UP if leaf in pair), set())
    missing = sorted(halves - leaves)
    if missing:
        return f"'{target}' and {missing[0]} are one matrix of the experts; write both"
    return f"'{target}' means the experts or their router, {why}" if (why := _not_fused(spec)) else None


def _not_fused(spec: dict) -> str | None:
    """What LoRA on a fused parameter of the experts cannot have."""
    if spec.get("dropout"):
        return f"on which PEFT has no dropout, and dropout is {spec['dropout']:g}; write dropout: 0"
    if spec.get("peft_args", {}).get("use_dora"):
        return "on which PEFT has no DoRA; take use_dora out"
    return None


def parameters_refusal(spec: dict, parameters: Collection[str]) -> str | None:
    """Why `peft_args.target_parameters` cannot be had, by the names of the model's parameters."""
    requested = spec.get("peft_args", {}).get("target_parameters") or []
    if requested and (why := _not_fused(spec)):
        return f"peft_args.target_parameters are fused matrices, {why}"
    return None


def method_refusal(spec: dict, config: dict) -> str | None:
    """Why a method cannot be had on an architecture, whatever its targets."""
    first = str(spec.get("peft_args", {}).get("init_lora_weights"))
    if config.get("model_type") not in CONV1D:
        return None
    kind = "matrices of GPT-2's kind, (inputs, outputs)"
    if not METHODS[spec["method"]].transposed_matrices:
        return f"PEFT's {spec['method'].upper()} cannot turn {kind}; write method: lora"
    if first == "olora":
        return f"PEFT's OLoRA misreads {kind}; write peft_args: {{init_lora_weights: pissa}}, or take it out"
    return None


def ia3(modules: Iterable[str]) -> list[str]:
    """The names of keys and values, or of the projection that they are fused in, and of feed-forward blocks' last matrices."""
    names = [name for name in modules if "experts" not in name.split(".")]
    leaves = {name.rpartition(".")[2] for name in names}
    found = next((list(kinds) for kinds in KEYS_AND_VALUES if leaves >= set(kinds)), [])
    return found + [last for last in LAST if any(f".{name}".endswith(f".{last}") for name in names)]


def feed_forward(requested: Iterable[str]) -> list[str]:
    """Those of IA3's targets whose input is scaled, instead of their output."""
    return [name for name in requested if any(f".{name}".endswith(f".{last}") for last in LAST)]
