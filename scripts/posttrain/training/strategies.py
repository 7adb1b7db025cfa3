"""How several processes share the training of a model: a trainer's arguments, the check after the start, what is saved.

Read with the configuration too, which is why torch is imported where it is needed.
"""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from posttrain.methods import METHODS
from posttrain.objectives import OBJECTIVES
from posttrain.runtime import processes
from posttrain.runtime.errors import UserError
from posttrain.runtime.processes import SHARES


class Strategy(NamedTuple):
    """What is known of a strategy."""

    arguments: Callable[[bool], dict[str, Any]]
    """fields of TrainingArguments; whether to offload"""
    distributed_types: tuple[str, ...]
    """accelerate's names of what the processes then are, on CPUs and on GPUs"""
    stage: int | None = None
    """of ZeRO"""


def _ddp(offload: bool) -> dict[str, Any]:
    """Every process holds all of the model."""
    return {}


def _fsdp(offload: bool) -> dict[str, Any]:
    from posttrain.training import sharding

    return sharding.fsdp(offload)


def _zero(stage: int) -> Callable[[bool], dict[str, Any]]:
    def arguments(offload: bool) -> dict[str, Any]:
        from posttrain.training import sharding

        return sharding.zero(stage, offload)

    return arguments


# Optimisers of transformers whose states can be shared out and written as whole tensors.
SHARED_OPTIMISERS = ("adamw_torch", "adamw_torch_fused")
STRATEGIES = {
    "single": Strategy(lambda offload: {}, ("NO",)),
    "ddp": Strategy(_ddp, ("MULTI_CPU", "MULTI_GPU")),
    "fsdp": Strategy(_fsdp, ("FSDP",)),
    "zero1": Strategy(_zero(1), ("DEEPSPEED",), stage=1),
    "zero2": Strategy(_zero(2), ("DEEPSPEED",), stage=2),
    "zero3": Strategy(_zero(3), ("DEEPSPEED",), stage=3),
}


def arguments(spec: dict) -> dict[str, Any]:
    """Fields of TrainingArguments for this job's processes."""
    if processes.count() == 1:
        return {}
    import torch

    backend = {} if torch.cuda.is_available() else {"ddp_backend": "gloo"}
    hardware, strategy = processes.hardware(), _strategy()
    if _shares() and METHODS[spec["method"]].four_bit:
        backend["optim"] = "adamw_torch"  # bitsandbytes knows no parts of its states
    # Every trained parameter has a gradient in each backward pass, unless a value model has a pass of its own.
    common = {
        "average_tokens_across_devices": True,
        "ddp_find_unused_parameters": OBJECTIVES[spec["objective"]].value_model,
    }
    return {**backend, **common, **strategy.arguments(hardware["offload"])}


def refusal(strategy: str, count: int, spec: dict, offload: bool = False) -> str | None:
    """Why a run cannot be trained by this many processes with this strategy, and what to write instead; None where it can.

    Args:
        spec: the run's, or its keys `objective`, `method`, `batch_size`, `minibatches`.
    """
    method = METHODS[spec["method"]]
    if STRATEGIES[strategy].stage and not importlib.util.find_spec("deepspeed"):
        return f"{strategy} needs DeepSpeed, which is not installed; run pip install deepspeed, or write strategy: fsdp"
    if SHARES[strategy] and method.unsharded:
        return f"{strategy} cannot train {spec['method']}: {method.unsharded}; write strategy: ddp"
    optimiser = spec.get("trainer_args", {}).get("optim", SHARED_OPTIMISERS[0])
    if SHARES[strategy] and optimiser not in SHARED_OPTIMISERS:
        known = " or ".join(SHARED_OPTIMISERS)
        return f"{strategy} shares out the states of AdamW, and optim is {optimiser}; write strategy: ddp, or optim: {known}"
    objective, rows = OBJECTIVES[spec["objective"]], spec["batch_size"] // spec.get("minibatches", 1)
    gathers_layers = "weights" in SHARES[strategy] and STRATEGIES[strategy].stage is None
    if gathers_layers and objective.on_policy and not objective.value_model:
        why = "TRL lets each process stop sampling where its own completions end, and the others would wait for its weights"
        return f"{strategy} cannot train {spec['objective']}: {why}; write strategy: zero2, or zero3"
    if offload and STRATEGIES[strategy].stage and objective.value_model:
        why = "DeepSpeed takes only the gradients of a step's last backward pass to the machine's memory, and the value has its own"
        return f"{strategy} cannot train {spec['objective']} with offload: {why}; write offload: false"
    if rows % count:
        what = f"a minibatch of {rows} rows" if "minibatches" in spec else f"batch_size {rows}"
        return f"{what} does not divide by {count} processes; write a multiple of {count}"
    if rows // count < objective.least_batch:
        least = objective.least_batch
        return f"{spec['objective']} needs {least} rows in each process; write a batch_size of at least {least * count}"
    return None


def check(trainer: Any, name: str) -> None:
    """Refuse processes that are not what was asked for: a launcher may start one, and a library ignore an argument.

    To be called once accelerate has prepared the model.

    Raises:
        UserError: with what was asked for and what there is.
    """
    asked, accelerator = processes.hardware(), trainer.accelerator
    kind = accelerator.distributed_type.value
    if accelerator.num_processes != asked["processes"]:
        problem = f"{asked['processes']} processes were asked for, and {accelerator.num_processes} train together"
    elif kind not in _strategy().distributed_types:
        problem = f"the strategy {asked['strategy']} was asked for, and accelerate's is {kind}"
    elif _shares() and (why := _sharding().what_is_wrong(trainer, _strategy().stage)):
        problem = f"the strategy {asked['strategy']} was asked for, and {why}"
    else:
        return
    hint = "start the stage by snakemake, or remove the launcher's variables from the environment"
    raise UserError("wrong-strategy", name, problem, hint)


def loads_on(spec: dict) -> str | None:
    """Where the parent is to be while it is whole, if not on the GPU: FSDP moves one layer after the other there, and cuts it."""
    at_once = METHODS[spec["method"]].four_bit or OBJECTIVES[spec["objective"]].reference == "before training"
    return "cpu" if processes.hardware()["strategy"] == "fsdp" and not at_once else None


def begin(trainer: Any, save: Callable[[Path], None], checkpoint: Path | None) -> None:
    """Prepare a trainer, which is complete but for the call of `train`, for this job's strategy.

    Args:
        save: writes what is trained to a folder; every process calls it.
        checkpoint: that training resumes from.
    """
    if _shares():
        _sharding().begin(trainer, save, checkpoint)


def state_to_save(model: Any) -> dict[str, Any] | None:
    """The weights to save by name, where each process holds a part of them; every process has to ask. None where it holds all."""
    return _sharding().whole_state(model) if _shares() else None


def part(parameter: Any) -> Any:
    """What this process holds of a parameter."""
    return _sharding().part(parameter) if _shares() else parameter


def whole(parameter: Any) -> Any:
    """All of a parameter; every process has to ask."""
    return _sharding().whole(parameter) if _shares() else parameter.detach()


def _strategy() -> Strategy:
    return STRATEGIES[processes.hardware()["strategy"]]


def _shares() -> tuple[str, ...]:
    """What this process holds only its share of."""
    return SHARES[processes.hardware()["strategy"]]


def _sharding() -> Any:
    from posttrain.training import sharding

    return sharding
