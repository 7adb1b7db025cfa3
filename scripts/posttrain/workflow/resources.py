"""What each job asks a scheduler for: memory, minutes, GPUs. A job on this machine runs whatever is asked.

What earlier jobs of the same name took decides, with a margin; where there were none, the base's size and the table below. Each
further attempt gets as much again.
"""

import contextlib
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from posttrain.objectives import OBJECTIVES
from posttrain.runtime.errors import UserError
from posttrain.workflow import paths

MARGIN = 1.5  # over the largest memory that was measured
TIMES = 2  # over the longest time that was measured
LEAST_MB, LEAST_MINUTES = 2000, 30


class Need(NamedTuple):
    """What a rule's first job asks for."""

    mb: int
    """of the machine's memory, without the model: libraries, rows, buffers"""
    copies: int
    """of the model, in float32, that the machine's memory holds at once"""
    minutes: int


# A training is stopped before its time limit and goes on in another job; the other stages have to end within theirs.
TRAINING = Need(6000, 2, 24 * 60)
NEEDS = dict.fromkeys(OBJECTIVES, TRAINING) | {
    **dict.fromkeys(("base", "base_here", "prune"), Need(4000, 3, 120)),
    **dict.fromkeys(("data", "data_online"), Need(8000, 0, 120)),
    "mix": Need(8000, 0, 60),
    "overlap": Need(8000, 0, 60),
    "data_report": Need(4000, 0, 60),
    "tokens": Need(8000, 0, 120),
    "preflight": Need(4000, 0, 60),
    "select": Need(6000, 1, 240),
    "logprobs": Need(6000, 1, 240),
    "topk": Need(6000, 1, 240),
    "generate": Need(4000, 0, 60),
    "merge": Need(6000, 3, 120),
    "eval": Need(6000, 1, 480),
    "export": Need(6000, 2, 240),
    "export_reference": Need(6000, 1, 480),
    "prove_export": Need(6000, 2, 480),
    "export_table": Need(2000, 0, 30),
    "predict": Need(6000, 1, 480),
    "judge": Need(6000, 1, 480),
    "loss": Need(2000, 0, 30),
    "sweep": Need(4000, 0, 60),
    "report": Need(4000, 0, 60),
    "card": Need(4000, 0, 60),
}


class Record(NamedTuple):
    """What earlier jobs of a rule took at most."""

    mb: float
    seconds: float


def records(rule: str, name: str) -> Record | None:
    """What the jobs of a rule took, of the run (or dataset, or base) `name` and of its overrides; None without any."""
    rows = [read_record(file) for file in paths.records(rule, name)]
    return Record(*map(max, zip(*rows, strict=True))) if rows else None


def read_record(file: Path) -> Record:
    """What a job took, from the file that `runtime.script` writes beside a log."""
    names, values = (line.split("\t") for line in file.read_text().splitlines())
    row = dict(zip(names, map(float, values), strict=True))
    return Record(row["max_rss"], row["s"])


def memory(rule: str, record: Record | None, parameters: int, attempt: int, processes: int = 1) -> int:
    """MB of the machine's memory.

    Args:
        parameters: of the base; 0 where it is not built yet.
        processes: that a training starts.
    """
    need = NEEDS[rule]
    mb = MARGIN * record.mb if record else need.mb + 4e-6 * need.copies * parameters
    return round(max(LEAST_MB, mb)) * processes * attempt


def minutes(rule: str, record: Record | None, attempt: int, longest: int | None = None) -> int:
    """The time limit in minutes; `longest` is the partition's."""
    asked = attempt * (max(LEAST_MINUTES, round(TIMES * record.seconds / 60)) if record else NEEDS[rule].minutes)
    return min(asked, longest or asked)


def on_cpu(spec: dict, model: Path) -> int:
    """MB that a training takes where there is no GPU, as its preflight estimates it; 0 where the base is not built yet."""
    from posttrain.models.memory_estimate import estimate  # brings safetensors, which no local command needs

    read = _model(model)
    return round(estimate(spec, read, spec["max_length"], 1.0, "cpu", False)["total"] / 1e6) if read else 0


def parameters(model: Path | None) -> int:
    """Of the model in a folder; 0 where there is none yet."""
    read = _model(model)
    return read.parameters if read else 0


def _model(folder: Path | None) -> Any:
    if folder is None or not (folder / "config.json").exists():
        return None
    return _read(folder)


@cache
def _read(folder: Path) -> Any:
    from posttrain.models.shapes import read_model

    with contextlib.suppress(UserError):  # of a damaged base, told by the stage that reads it
        return read_model(folder)
