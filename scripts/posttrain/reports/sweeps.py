"""The settings of a sweep, compared with each other.

Points that differ in the seed alone are trainings of one setting, whose value is their mean. Settings are compared by
`paired`, as the models of an eval.json are; here p is corrected for the number of comparisons.
"""

import json
from collections.abc import Iterable
from itertools import chain, combinations
from typing import Any, NamedTuple

import numpy as np

from posttrain.metrics.paired import Measured, compare, spread, verdicts
from posttrain.metrics.statistics import Metric
from posttrain.reports import overruled
from posttrain.reports.overruled import Overruled

SAME_WORK = 1.1  # amounts of work whose ratio is smaller count as equal: nobody chooses by less

# ---- settings


class Setting(NamedTuple):
    """What was trained, once for each seed."""

    overrides: dict[str, Any]
    runs: tuple[str, ...]
    seeds: tuple[Any, ...]


def settings(points: list[tuple[str, dict[str, Any]]]) -> list[Setting]:
    """The points of a sweep, those that differ in the seed alone together; in the order in which they come first."""
    found: dict[str, Setting] = {}
    for run, overrides in points:
        own = {key: value for key, value in overrides.items() if key != "seed"}
        before = found.get(json.dumps(own, sort_keys=True), Setting(own, (), ()))
        together = Setting(own, (*before.runs, run), (*before.seeds, overrides.get("seed")))
        found[json.dumps(own, sort_keys=True)] = together
    return list(found.values())


def swept(settings: list[Setting]) -> list[str]:
    """The keys that differ between the settings."""
    keys = dict.fromkeys(key for setting in settings for key in setting.overrides)
    return [key for key in keys if len({json.dumps(setting.overrides.get(key)) for setting in settings}) > 1]


def label(setting: Setting, keys: list[str]) -> str:
    """A setting's name, as in a target: `rank=4,beta=0.1`."""
    own = [f"{key}={text(setting.overrides[key])}" for key in keys if key in setting.overrides]
    return ",".join(own) or "as configured"


def text(value: Any) -> str:
    """A value as it is written: 0.0001, lora."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def number(value: Any) -> float | None:
    """A value as a number, if it is one; YAML reads 1e-4 as text."""
    try:
        return None if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return None


def by_cost(settings: list[Setting], work: list[float]) -> list[int]:
    """The settings' positions, cheapest first: by the work of training; of about the same work by value, then by order."""
    amounts: dict[int, float] = {}
    start = -np.inf
    for index in np.argsort(work, kind="stable"):
        if work[index] > SAME_WORK * start:
            start = work[index]
        amounts[int(index)] = start
    keys = swept(settings)

    def place(index: int) -> tuple:
        values = [number(settings[index].overrides.get(key)) for key in keys]
        return amounts[index], [np.inf if value is None else value for value in values], index

    return sorted(range(len(settings)), key=place)


def front(costs: list[float], values: list[float], higher_is_better: bool) -> list[int]:
    """The Pareto front: the positions of those that no other beats in cost or value without losing in the other."""
    gains = np.array(values) * (1 if higher_is_better else -1)
    costs = np.array(costs)
    beaten = [
        ((costs <= c) & (gains >= g) & ((costs < c) | (gains > g))).any() for c, g in zip(costs, gains, strict=True)
    ]
    return [index for index in np.lexsort((-gains, costs)).tolist() if not beaten[index]]


# ---- comparisons


def summary(metric: Metric, measured: Measured, first: dict[str, float]) -> dict[str, Any]:
    """Value, interval, n and the spread between trainings; `first` is the metric in the first training's eval.json."""
    values = measured.values
    row = first | {"value": float(values.mean()), "trainings": values.tolist(), "sd": None}
    if len(values) == 1:
        return row
    row["sd"] = float(values.std(ddof=1))
    if metric.share and row["value"] in (0.0, 1.0):
        return row
    half = spread(measured).width()
    low, high = row["value"] - half, row["value"] + half
    return row | ({"low": max(low, 0.0), "high": min(high, 1.0)} if metric.share else {"low": low, "high": high})


def compare_all(metrics: dict[str, Metric], measured: dict[str, list[Measured]]) -> dict[tuple, dict[str, Any]]:
    """Verdicts of every later setting against every earlier one in every metric, corrected for their number.

    All pairs, as which of them a sentence is about is seen only afterwards.
    """
    found = {
        (name, first, second): compare(metrics[name], own[second], own[first])
        for name, own in measured.items()
        for first, second in combinations(range(len(own)), 2)
    }
    return verdicts(metrics, found)


# ---- the sweep


class Sweep(NamedTuple):
    """A sweep's settings (positions are theirs), what was measured, and each later setting against each earlier one."""

    name: str
    settings: list[Setting]
    metrics: dict[str, Metric]
    values: dict[str, list[dict[str, Any]]]
    rows: dict[tuple[str, int, int], dict[str, Any]]
    work: list[float]
    """of a training, in `unit`: FLOP, or rows"""
    seconds: list[float]
    memory: list[float]
    unit: str = "FLOP"
    overruled: tuple[tuple[Overruled, ...], ...] = ()
    """of each setting, the checks that were overruled for it"""

    @property
    def keys(self) -> list[str]:
        """The keys that differ between the settings."""
        return swept(self.settings)

    @property
    def compared(self) -> list[str]:
        """The metrics in which the settings are compared."""
        return list(dict.fromkeys(name for name, *_ in self.rows))

    @property
    def undecidable(self) -> list[str]:
        """The metrics that can show nothing: no comparison has a verdict, nor a difference that it could have shown."""
        varying = {name for (name, *_), row in self.rows.items() if row.get("detectable", 0.0) is not None}
        return [name for name in self.compared if name not in varying]

    def row(self, name: str, ours: int, theirs: int) -> dict[str, Any]:
        """One setting against another, whichever comes first."""
        if ours > theirs:
            return self.rows[name, theirs, ours]
        row = self.rows[name, ours, theirs]
        other = {"better": "worse", "worse": "better"}.get(row["verdict"], row["verdict"])
        return row | {"difference": -row["difference"], "low": -row["high"], "high": -row["low"], "verdict": other}

    def better(self, name: str, ours: int, theirs: int) -> bool:
        """Whether there is evidence that a setting is better than another."""
        return ours != theirs and self.row(name, ours, theirs)["verdict"] == "better"

    def touched(self, *indices: int) -> str:
        """The checks that were overruled for these settings, in words; empty where there is none."""
        return overruled.named(chain(*(self.overruled[index] for index in indices if self.overruled)))

    def unbeaten(self, names: Iterable[str]) -> int | None:
        """The cheapest setting from which no other is better in any of the metrics."""
        every = range(len(self.settings))
        for index in by_cost(self.settings, self.work):
            if not any(self.better(name, other, index) for name in names for other in every):
                return index
        return None

    def label(self, index: int) -> str:
        """A setting's name, as in a target."""
        return label(self.settings[index], self.keys)

    def short(self, index: int) -> str:
        """A setting's name once its only key has been said."""
        return (
            text(self.settings[index].overrides.get(self.keys[0], "as configured"))
            if len(self.keys) == 1
            else self.label(index)
        )

    def full(self, index: int) -> str:
        """A setting's name in a sentence: `rank 4`, `rank=4,beta=0.1`."""
        own = len(self.keys) == 1 and self.keys[0] in self.settings[index].overrides
        return f"{self.keys[0]} {self.short(index)}" if own else self.label(index)
