"""What DeepSpeed's ZeRO holds of a parameter: its weight in float32 and its optimiser's states, of which each process has a part.

Checked with DeepSpeed 0.19.8. Its public functions (`safe_get_full_optimizer_state` and the like) read whole tensors, but cannot
write states before the first step, nor a tensor that does not divide by the processes. It can go once they can.
"""

from typing import Any

import torch

CHECKED = {"deepspeed": "0.19.8"}


def is_sharded(parameter: torch.Tensor) -> bool:
    """Whether ZeRO has the weight in parts, or its float32 copy and states."""
    return hasattr(parameter, "ds_id") or hasattr(parameter, "_hp_mapping")  # None where its part is another process's


def part(parameter: torch.Tensor) -> torch.Tensor:
    """What this process has of a weight: a part in stage 3, else all."""
    return parameter.ds_tensor if hasattr(parameter, "ds_id") else parameter


def whole(parameter: torch.Tensor, key: str | None = None) -> torch.Tensor:
    """A trained weight in float32, or its optimiser's state of the name `key`; every process has to ask.

    A frozen weight, which has neither, is gathered as it is.
    """
    import deepspeed
    from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

    if key:
        return safe_get_full_optimizer_state(parameter, key)
    if parameter.requires_grad:
        return safe_get_full_fp32_param(parameter)
    with deepspeed.zero.GatheredParameters([parameter]):
        return parameter.detach().clone()


def write(parameter: torch.Tensor, value: torch.Tensor, key: str | None = None) -> None:
    """Write this process's part of a trained weight's float32 copy, or of its optimiser's state of the name `key`."""
    if not hasattr(parameter, "ds_id"):
        parameter.set_full_hp_param(value, key)
        return
    from deepspeed.comm import get_rank

    size = parameter.ds_tensor.numel()
    own = torch.zeros(size, dtype=value.dtype)
    given = value.flatten()[size * get_rank() :][:size]
    own[: len(given)] = given
    parameter._z3_optimizer.set_local_hp_param(own, parameter, key)


def flat_parts(zero: Any) -> list[torch.Tensor]:
    """The float32 tensors of this process that torch's optimiser really trains: the parts of all weights, one after the other."""
    stage_3 = hasattr(zero, "fp32_partitioned_groups_flat")
    return zero.fp32_partitioned_groups_flat if stage_3 else zero.single_partition_of_fp32_groups


def make_states(zero: Any, keys: tuple[str, ...], step: float) -> None:
    """Give torch's optimiser the states that it makes in its first step, as they are after `step` steps but for their values."""
    fused = any(group.get("fused") or group.get("capturable") for group in zero.optimizer.param_groups)
    for flat in flat_parts(zero):
        place = flat.device if fused else "cpu"
        states = {"step": torch.tensor(float(step), dtype=torch.float32, device=place)}
        zero.optimizer.state[flat] = states | {key: torch.zeros_like(flat) for key in keys}
    link_states(zero)


def link_states(zero: Any) -> None:
    """Let stages 1 and 2 know which part of the states is whose.

    They do so once, after the first group of parameters has made its first step, when those of the other groups are not there yet.
    """
    if hasattr(zero, "_lazy_init_hp_params_optimizer_state"):
        zero._hp_optimizer_states_linked = False
        zero._lazy_init_hp_params_optimizer_state()
