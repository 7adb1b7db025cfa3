"""One plain LoRA from those of several runs in a row: W + B1 A1 + B2 A2 is W + [B1 B2] [A1; A2].

PEFT's `add_weighted_adapter` with `cat` does the same on a loaded model; this works on the files, so that it needs neither base nor
memory for it, and it takes the scaling into B: rank and alpha are then the same number in every layer, which every server reads
alike. llama.cpp knows one alpha and no rsLoRA. A layer that has less than the largest rank is filled up with zeros.
"""

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from peft.utils.other import get_pattern_key
from safetensors.torch import load_file, save_file

from posttrain.runtime.atomic import read_json, write_json

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
PREFIX = "base_model.model."
MATRIX = re.compile(r"(?P<module>.*)\.lora_(embedding_)?(?P<matrix>[AB])(\.weight)?")
HEADS = ("lm_head", "embed_out")  # a reward model has none

Pair = tuple[torch.Tensor, torch.Tensor]
"""A (r, in) and B (out, r), scaled, in float32"""


def combine(adapters: Sequence[Path], folder: Path, name: str) -> None:
    """Write the adapter that does what several do one after the other.

    Args:
        adapters: folders of plain LoRA adapters as PEFT saves them, the first that was trained first; see `methods.combined`.
            What the last ones have besides matrices (rows of new tokens, the head of a reward model) takes the place of what
            earlier ones have.
        name: of the base, for the configuration.
    """
    configs = [read_json(adapter / CONFIG) for adapter in adapters]
    reward = configs[-1]["task_type"] == "SEQ_CLS"
    layers: dict[str, list[Pair]] = {}
    rest: dict[str, torch.Tensor] = {}
    for adapter, config in zip(adapters, configs, strict=True):
        pairs, others = _read(adapter, config)
        rest |= others
        for key, pair in pairs.items():
            layers.setdefault(key, []).append(pair)
    if reward:
        layers, rest = ({key: value for key, value in part.items() if not _is_head(key)} for part in (layers, rest))
    rank = max(sum(len(a) for a, _ in pairs) for pairs in layers.values())
    save_file(_tensors(layers, rank) | rest, folder / WEIGHTS, metadata={"format": "pt"})
    config = _config(configs, sorted({_module(key) for key in layers}), rank, name).to_dict()
    sets = {key: sorted(value) for key, value in config.items() if isinstance(value, set)}  # in an order of their own
    write_json(folder / CONFIG, config | sets)


def is_uniform(config: dict[str, Any]) -> bool:
    """Whether all layers of an adapter have one rank and one scaling, alpha / rank."""
    return not any(config.get(key) for key in ("use_rslora", "rank_pattern", "alpha_pattern"))


def _read(adapter: Path, config: dict[str, Any]) -> tuple[dict[str, Pair], dict[str, torch.Tensor]]:
    """The matrices of each layer, by the name of their tensors with {} for A or B; and every other tensor."""
    found: dict[str, dict[str, torch.Tensor]] = {}
    rest = {}
    for key, tensor in load_file(adapter / WEIGHTS).items():
        match = MATRIX.fullmatch(key)
        if match:
            start, end = match.span("matrix")
            found.setdefault(f"{key[:start]}{{}}{key[end:]}", {})[match["matrix"]] = tensor.float()
        elif ".base_layer." not in key:  # the base's own weights, which PEFT saves beside an adapted embedding
            rest[key] = tensor
    pairs = {key: (ab["A"], ab["B"] * _scaling(config, _module(key), len(ab["A"]))) for key, ab in found.items()}
    return pairs, rest


def _scaling(config: dict[str, Any], module: str, rank: int) -> float:
    alphas = config.get("alpha_pattern") or {}
    alpha = alphas.get(get_pattern_key(alphas.keys(), module), config["lora_alpha"])
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _module(key: str) -> str:
    return MATRIX.fullmatch(key.format("A"))["module"].removeprefix(PREFIX)


def _is_head(key: str) -> bool:
    return any(f".{head}." in key for head in HEADS)


def _tensors(layers: dict[str, list[Pair]], rank: int) -> dict[str, torch.Tensor]:
    tensors = {}
    for key, pairs in layers.items():
        a, b = torch.cat([a for a, _ in pairs]), torch.cat([b for _, b in pairs], 1)
        missing = rank - len(a)
        tensors[key.format("A")] = torch.cat([a, a.new_zeros(missing, a.shape[1])])
        tensors[key.format("B")] = torch.cat([b, b.new_zeros(b.shape[0], missing)], 1)
    return tensors


def _config(configs: list[dict[str, Any]], modules: list[str], rank: int, name: str) -> LoraConfig:
    """The configuration of a LoRA whose scaling is 1; modules by their last names where the runs' own were such."""
    last = sorted({module.rpartition(".")[2] for module in modules})
    given = [config["target_modules"] for config in configs]
    everywhere = all(isinstance(targets, list) for targets in given) and not any(
        config.get(key) for config in configs for key in ("layers_to_transform", "exclude_modules", "layers_pattern")
    )
    whole = everywhere and {target for targets in given for target in targets} == set(last)
    rows = [config["trainable_token_indices"] for config in configs if config.get("trainable_token_indices")]
    return LoraConfig(
        base_model_name_or_path=name,
        task_type=configs[-1]["task_type"],
        r=rank,
        lora_alpha=rank,
        lora_dropout=0.0,
        target_modules=last if whole else modules,
        fan_in_fan_out=configs[-1]["fan_in_fan_out"],
        modules_to_save=sorted({*(configs[-1].get("modules_to_save") or [])}) or None,
        trainable_token_indices=rows[-1] if rows else None,
        inference_mode=True,
    )
