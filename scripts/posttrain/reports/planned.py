"""Estimates of `posttrain plan` beside what the jobs took."""

from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from posttrain.objectives import OBJECTIVES
from posttrain.reports import formatting
from posttrain.runtime.atomic import read_json
from posttrain.workflow import paths, resources

AIM = {"seconds": 0.30, "memory": 0.15}  # errors that the estimates should stay within
MIB = 2**20


class Compared(NamedTuple):
    """A job that was planned and has run since."""

    job: str
    rule: str
    planned: float
    """seconds"""
    low: float
    high: float
    source: str
    took: float
    """seconds"""
    planned_memory: float | None
    """bytes"""
    memory: float
    """bytes of its process, or of the GPU of a training"""

    @property
    def error(self) -> float:
        """Relative to what it took; above 0 where it took less than planned."""
        return self.planned / self.took - 1

    @property
    def difference(self) -> str:
        """The error as people read it: `+12%`, `-30%` with a true minus sign."""
        return f"{formatting.MINUS if self.error < 0 else '+'}{100 * abs(self.error):.0f}%"

    @property
    def planned_memory_said(self) -> str:
        """The estimate of the memory as people read it; empty where there was none."""
        return formatting.bytes_(self.planned_memory) if self.planned_memory else ""

    @property
    def memory_said(self) -> str:
        """The memory as people read it."""
        return formatting.bytes_(self.memory)


def compared() -> list[Compared]:
    """The jobs of the last plans that have run since they were planned."""
    found = read_json(paths.PLAN)["jobs"] if paths.PLAN.exists() else {}
    rows = []
    for job, row in found.items():
        record = paths.record(job)
        if row["source"] != "there" and record.exists() and record.stat().st_mtime > row["planned"]:
            took = resources.read_record(record)
            if took.seconds > 0:
                rows.append(_compared(job, row, took))
    return rows


def _compared(job: str, row: dict[str, Any], took: resources.Record) -> Compared:
    rule, _, name = job.partition("/")
    seconds, memory = took.seconds, took.mb * MIB
    summary = Path(paths.of(name, "train.json"))
    if rule in OBJECTIVES and summary.exists():
        train = read_json(summary)
        seconds = max(seconds, train["seconds"])
        memory = train["memory_gib"] * 2**30 if train.get("memory_of") == "gpu" else memory
    return Compared(job, rule, row["seconds"], row["low"], row["high"], row["source"], seconds, row["memory"], memory)


def of_models(names: list[str]) -> dict[str, Any]:
    """What the report shows: the trainings and evaluations of these models that were planned, and how good all estimates were."""
    rows = compared()
    shown = [
        row for row in rows if row.job.partition("/")[2] in names and (row.rule in OBJECTIVES or row.rule == "eval")
    ]
    order = {name: place for place, name in enumerate(names)}
    shown.sort(key=lambda row: (order[row.job.partition("/")[2]], row.rule == "eval"))
    return {"rows": shown, "summary": summary(rows)}


def summary(rows: list[Compared]) -> dict[str, Any] | None:
    """How good the estimates were: median relative error, and the share within the aim; None where nothing has run."""
    if not rows:
        return None
    errors = [abs(row.error) for row in rows]
    total = sum(row.planned for row in rows) / sum(row.took for row in rows) - 1
    memory = [abs(row.planned_memory / row.memory - 1) for row in rows if row.planned_memory and row.rule in OBJECTIVES]
    return {
        "jobs": len(rows),
        "median_error": median(errors),
        "within": sum(error <= AIM["seconds"] for error in errors) / len(errors),
        "in_range": sum(row.low <= row.took <= row.high for row in rows) / len(rows),
        "total_error": total,
        "memory_median_error": median(memory) if memory else None,
        "memory_within": sum(error <= AIM["memory"] for error in memory) / len(memory) if memory else None,
        "trainings": len(memory),
    }
