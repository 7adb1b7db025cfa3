"""With which batch, recomputation, length and strategy a stage fits into memory, by the estimate that preflight uses."""

from typing import Any, NamedTuple

from posttrain.config import loading
from posttrain.config.runs import Run
from posttrain.guidance.facts import Place
from posttrain.methods import METHODS
from posttrain.models.memory_estimate import GIB, estimate
from posttrain.models.memory_sharing import ALONE, Hardware
from posttrain.models.shapes import Model
from posttrain.objectives import OBJECTIVES

SHORTEST = 512  # tokens; a shorter length is not chosen for the sake of memory alone
ROOM = 1.15  # of the weights, for the activations and the cache of an evaluation
STRATEGIES = ("ddp", "fsdp")  # of several GPUs: whole models first, then shared out


class Fit(NamedTuple):
    """Settings of a stage, and what it takes with them."""

    keys: dict[str, Any]
    """of the run: batch, accumulation, recomputation, length"""
    strategy: str | None
    """of several GPUs"""
    gib: float
    """of memory in each process"""
    fits: bool


def fitted(run: dict[str, Any], model: Model, place: Place, longest: int) -> Fit:
    """The settings that cost the least time among those that fit, or those that take the least memory where none does.

    Smaller micro-batches come first, which change no result, then recomputed activations, then shorter rows.

    Args:
        run: keys of the run, `batch_size` and what the method needs among them.
        longest: tokens of a row that are wanted.
    """
    tried = [
        (strategy, keys | {"max_length": length})
        for length in _lengths(longest)
        for strategy in _strategies(run, place)
        for keys in _splits(run, place.gpus)
    ]
    least = _fit(run, *tried[-1], model, place)
    if not least.fits:
        return least
    return next(filter(lambda fit: fit.fits, (_fit(run, *settings, model, place) for settings in tried)), least)


def _fit(run: dict[str, Any], strategy: str | None, keys: dict[str, Any], model: Model, place: Place) -> Fit:
    found = _needed(run | keys, model, place, strategy, keys["max_length"])
    return Fit(keys, strategy, found / GIB, found <= place.budget)


def _strategies(run: dict[str, Any], place: Place) -> tuple[str | None, ...]:
    """Those of several GPUs, from the fastest; weights in 4 bits are not shared out."""
    if place.gpus == 1:
        return (None,)
    return STRATEGIES[:1] if METHODS[run["method"]].four_bit else STRATEGIES


def needed(run: dict[str, Any], fit: Fit, model: Model, place: Place) -> float:
    """GiB that a run takes with the settings of another one's fit."""
    run = run | fit.keys
    return _needed(run, model, place, fit.strategy, run["max_length"]) / GIB


def measured_in(model: Model, place: Place, spread: bool) -> tuple[str | None, float]:
    """The precision in which the whole model is scored on this machine, and its weights in GiB; None where it does not fit.

    Evaluation holds the merged model, never in 4 bits.

    Args:
        spread: whether several GPUs share its layers, as they do with fsdp.
    """
    gib = {name: size * model.parameters / GIB for name, size in (("fp32", 4), ("bf16", 2))}
    budget = place.budget * (place.gpus if spread else 1) / GIB
    return next(((name, need) for name, need in gib.items() if need * ROOM < budget), (None, gib["bf16"]))


def _lengths(longest: int) -> list[int]:
    lengths = [longest]
    while lengths[-1] // 2 >= SHORTEST:
        lengths.append(lengths[-1] // 2)
    return lengths


def _splits(run: dict[str, Any], gpus: int) -> list[dict[str, Any]]:
    """Ways to compute a step, from the fastest to the one that takes the least memory."""
    objective, method = OBJECTIVES[run["objective"]], METHODS[run["method"]]
    batch = run["batch_size"]
    # Processes share a step out first, so that fewer passes than processes change nothing.
    passes = [n for n in range(1, batch // objective.least_batch + 1) if batch % n == 0 and (n == 1 or n > gpus)]
    recomputing = (False, True) if method.gradient_checkpointing else (False,)
    return [
        {"gradient_accumulation_steps": n, "gradient_checkpointing": again} for again in recomputing for n in passes
    ]


def _needed(run: dict[str, Any], model: Model, place: Place, strategy: str | None, longest: int) -> float:
    spec = loading.validate(Run, {"from": "base", "data": "rows"} | run).settings()
    hardware = Hardware(place.gpus, strategy) if strategy else ALONE
    return estimate(spec, model, longest, 1.0, place.device, place.bf16, hardware)["total"]
