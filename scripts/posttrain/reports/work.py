"""What a training takes in work, which is the same on every machine and every day, as its seconds are not."""

from pathlib import Path
from typing import NamedTuple

from posttrain.reports import curves
from posttrain.runtime.atomic import read_json
from posttrain.workflow import paths

PREFIXES = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


class Work(NamedTuple):
    """The work of a training."""

    flop: float | None
    """floating-point operations, about; None where the training has not counted its tokens"""
    rows: int
    """rows that went through it, each epoch's counted"""


def of(run: str) -> Work:
    """The work of a run's training, from train.json, train.jsonl and spec.json.

    A token takes 2 operations for each parameter in the forward pass and 2 in the backward pass, and 2 more for each that is
    trained (Kaplan et al. 2020, arXiv 2001.08361, has the 6 of training all of them). What attention takes besides, reference
    scores and generated answers are not counted.
    """
    train, spec = (read_json(Path(paths.of(run, file))) for file in ("train.json", "spec.json"))
    counts = [line["num_tokens"] for line in curves.read(Path(paths.of(run, "train.jsonl"))) if line.get("num_tokens")]
    a_token = 4 * train["parameters"] + 2 * train["trainable_parameters"]
    rows = (
        train["steps"] * spec["batch_size"] // spec.get("minibatches", 1)
    )  # which is the steps over one batch of answers
    return Work(counts[-1] * a_token if counts else None, rows)


def of_each(runs: list[str]) -> tuple[dict[str, float], str]:
    """The work of several trainings in the same unit, and the unit: FLOP, or rows where one has not counted its tokens."""
    found = {run: of(run) for run in runs}
    if all(work.flop is not None for work in found.values()):
        return {run: work.flop for run, work in found.items()}, "FLOP"
    return {run: float(work.rows) for run, work in found.items()}, "rows"


def amount(work: float, unit: str) -> str:
    """Work as people read it: `3.1 TFLOP`, `1,200 rows`."""
    divisor, unit = scale(work, unit)
    value = work / divisor
    return f"{value:,.0f} {unit}" if value >= 100 else f"{value:.3g} {unit}"


def scale(most: float, unit: str) -> tuple[float, str]:
    """By what to divide work of up to `most`, and the unit then: FLOP with a prefix, rows as they are."""
    if unit != "FLOP":
        return 1.0, unit
    return next(((size, f"{prefix}{unit}") for size, prefix in PREFIXES if most >= size), (1.0, unit))
