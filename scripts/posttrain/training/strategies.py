"""How several processes share the training of a model: a trainer's arguments, the check after the start, what is saved.

Read with the configuration too, which is why torch is imported where it is needed.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from posttrain.objectives import OBJECTIVES
from posttrain.runtime import processes
from posttrain.runtime.errors import UserError


class Strategy(NamedTuple):
    """What is known of a strategy."""

    arguments: Callable[[dict], dict[str, Any]]
    """fields of TrainingArguments, from a spec"""
    distributed_types: tuple[str, ...]
    """accelerate's names of what the processes then are, on CPUs and on GPUs"""


def _ddp(spec: dict) -> dict[str, Any]:
    """Every process holds all of the model. Every trained parameter has a gradient in each backward pass, so none is searched for."""
    return {"ddp_find_unused_parameters": False}


STRATEGIES = {
    "single": Strategy(lambda spec: {}, ("NO",)),
    "ddp": Strategy(_ddp, ("MULTI_CPU", "MULTI_GPU")),
}


def arguments(spec: dict) -> dict[str, Any]:
    """Fields of TrainingArguments for this job's processes."""
    if processes.count() == 1:
        return {}
    import torch

    backend = {} if torch.cuda.is_available() else {"ddp_backend": "gloo"}
    return {**backend, "average_tokens_across_devices": True, **_strategy().arguments(spec)}


def refusal(strategy: str, count: int, spec: dict) -> str | None:
    """Why a run cannot be trained by this many processes with this strategy, and what to write instead; None where it can.

    Args:
        spec: the run's, or its keys `objective`, `method`, `batch_size`, `minibatches`.
    """
    objective, rows = OBJECTIVES[spec["objective"]], spec["batch_size"] // spec.get("minibatches", 1)
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
    else:
        return
    hint = "start the stage by snakemake, or remove the launcher's variables from the environment"
    raise UserError("wrong-strategy", name, problem, hint)


def _strategy() -> Strategy:
    return STRATEGIES[processes.hardware()["strategy"]]


def state_to_save(model: Any) -> dict[str, Any] | None:
    """The whole model's weights by name, where each process holds a part of them; every process has to ask. None where it holds all."""
    return None
