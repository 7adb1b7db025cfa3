"""PPO's critic: an adapter with a head of its own, which begins at 0 or as the reward model, and has its own learning rate."""

import copy
from typing import Any

import torch

from posttrain.methods import METHODS, VALUE_RANK
from posttrain.models import peft_methods


def configuration(spec: dict, policy: Any | None, model: Any) -> Any:
    """PEFT's configuration of the critic, beside the policy's.

    Args:
        policy: the policy's own; None for one of all weights, whose critic is a LoRA of every layer that takes one.
        model: the parent.
    """
    rank = spec.get("value_rank")
    if policy is None:
        own = {"method": "lora", "rank": rank or VALUE_RANK, "alpha": 2 * (rank or VALUE_RANK), "dropout": 0.0}
        return peft_methods.peft_config(spec | own | {"target_modules": "all-linear"}, model, steps=0)
    config = copy.deepcopy(policy)
    if rank:
        config.r, config.lora_alpha, config.rank_pattern, config.alpha_pattern = rank, 2 * rank, {}, {}
    return config


def learning_rate(spec: dict) -> float:
    """The critic's; by default its method's usual one for learning from given answers, and no less than the policy's."""
    method = METHODS[spec["method"]]
    usual, _ = (METHODS["lora"] if method.full else method).learning_rates
    return spec.get("value_learning_rate") or max(usual, spec["learning_rate"])


def set_apart(optimizer: torch.optim.Optimizer, parameters: list[torch.nn.Parameter], factor: float) -> None:
    """Put `parameters` into groups of their own, each with the learning rate of the one it was in times `factor`."""
    own = {id(parameter) for parameter in parameters}
    for group in list(optimizer.param_groups):
        apart = [parameter for parameter in group["params"] if id(parameter) in own]
        if not apart:
            continue
        group["params"] = [parameter for parameter in group["params"] if id(parameter) not in own]
        rest = {key: value for key, value in group.items() if key != "params"}
        optimizer.add_param_group(rest | {"params": apart, "lr": group["lr"] * factor})
    optimizer.param_groups[:] = [group for group in optimizer.param_groups if group["params"]]


def differs(ours: Any, theirs: Any) -> bool:
    """Whether two LoRA configurations make adapters of different shapes or scales."""
    keys = (
        "r",
        "lora_alpha",
        "use_rslora",
        "use_dora",
        "target_modules",
        "exclude_modules",
        "rank_pattern",
        "alpha_pattern",
    )
    return any(getattr(ours, key) != getattr(theirs, key) for key in (*keys, "layers_to_transform", "layers_pattern"))
