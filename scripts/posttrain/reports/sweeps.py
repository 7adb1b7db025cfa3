"""The settings of a sweep, compared with each other, and what a person would say of them.

Points that differ in the seed alone are trainings of one setting, whose value is their mean. Settings are compared by
`paired`, as the models of an eval.json are; here p is corrected for the number of comparisons.
"""

import json
from collections.abc import Iterable
from itertools import chain, combinations
from typing import Any, NamedTuple

import numpy as np

from posttrain.metrics.paired import Measured, compare, spread, verdicts
from posttrain.metrics.statistics import FEWEST, SAME, Metric, basis, size
from posttrain.reports import overruled, work
from posttrain.reports.overruled import Overruled
from posttrain.runtime import console

SAME_WORK = 1.1  # amounts of work whose ratio is smaller count as equal: nobody chooses by less
AMOUNTS = (
    "rank",
    "epochs",
    "max_steps",
    "max_length",
    "batch_size",
    "accumulation",
)  # keys of which one can have enough

MANY = 3  # settings named one by one in a sentence

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


# ---- sentences


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
    def mute(self) -> list[str]:
        """The metrics that can show nothing: no comparison has a verdict, nor a difference that it could have shown."""
        telling = {name for (name, *_), row in self.rows.items() if row.get("detectable", 0.0) is not None}
        return [name for name in self.compared if name not in telling]

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


def answer(sweep: Sweep) -> list[str]:
    """What the sweep says as a whole: the setting to take, then what the reader must know of checks, work and seeds."""
    sentences = []
    if len(sweep.settings) > 1 and sweep.compared:
        sentences += [_choice(sweep), *overruled.sentences(chain(*sweep.overruled)), *_same_work(sweep)]
    return [*sentences, *_spread(sweep)]


def _choice(sweep: Sweep) -> str:
    names = [name for name in sweep.compared if name not in sweep.mute]
    if not names:
        return f"No setting is recommended: {_too_few(sweep, sweep.compared)}. Hold out more rows."
    metrics = {1: names[0], 2: " or ".join(names)}.get(len(names), f"any of {len(names)} metrics")
    if all(row["verdict"] == "no evidence" for row in sweep.rows.values()):
        index = by_cost(sweep.settings, sweep.work)[0]
        return f"No setting is shown to be better than another in {metrics}; the cheapest is {sweep.full(index)} ({_cost(sweep, index)})."
    index = sweep.unbeaten(names)
    if index is None:
        best: dict[int, list[str]] = {}
        for name in names:
            best.setdefault(sweep.unbeaten([name]), []).append(name)
        parts = [f"{sweep.full(index)} in {listed(found)}" for index, found in best.items()]
        return f"No setting will do for every metric: take {'; '.join(parts)}."
    return f"Take {sweep.full(index)} ({_cost(sweep, index)}): the cheapest of the settings that no other is shown to beat in {metrics}."


def _cost(sweep: Sweep, index: int) -> str:
    return f"{work.amount(sweep.work[index], sweep.unit)} of training, {sweep.memory[index]:.2g} GiB"


def _too_few(sweep: Sweep, names: list[str]) -> str:
    """That no difference of these metrics can be shown, by how many examples each has."""
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(basis(sweep.values[name][0]), []).append(name)
    among = " in so many comparisons" if any(_clusters(sweep, name) >= FEWEST for name in names) else ""
    return "; ".join(f"{what} are too few to show a difference in {listed(of)}" for what, of in found.items()) + among


def _clusters(sweep: Sweep, name: str) -> int:
    row = sweep.values[name][0]
    return row.get("clusters", row["n"])


def _same_work(sweep: Sweep) -> list[str]:
    if max(sweep.work) > SAME_WORK * min(sweep.work) or len(sweep.mute) == len(sweep.compared):
        return []
    return ["Every setting takes about as much work to train, so the smaller value counts as cheaper."]


def _spread(sweep: Sweep) -> list[str]:
    """How much trainings that differ in the seed alone differ."""
    counts = [len(setting.runs) for setting in sweep.settings]
    if max(counts) == 1:
        what = "Each setting was" if len(counts) > 1 else "It was"
        return [f"{what} trained once, so the spread between trainings is unknown: add seed: [1, 2, 3] to the sweep."]
    parts = []
    for name, values in sweep.values.items():
        range_ = max(max(row["trainings"]) - min(row["trainings"]) for row in values)
        if range_:
            parts.append(f"{size(sweep.metrics[name], range_)} in {name}")
    trained = f"{_count(max(counts))} trainings" if len(counts) == 1 else "trainings of one setting"
    if not parts:
        return [f"Seed: {trained} do not differ in any metric."]
    return [f"Seed: {trained} differ by {'' if len(counts) == 1 else 'up to '}{listed(parts)}."]


def sentences(sweep: Sweep) -> list[str]:
    """What the sweep says of its metrics: a sentence for each, and one for all those without any evidence."""
    groups: dict[tuple, list[str]] = {}
    for name in sweep.compared:
        if name in sweep.mute:
            continue
        chosen, level, worse, cheaper = _order(sweep, name)
        same = (chosen, *level) if not worse and not cheaper else (name,)
        groups.setdefault(same, []).append(name)
    said = [_sentence(sweep, names) for names in groups.values()]
    return [*said, *([f"{_too_few(sweep, sweep.mute)}."] if said and sweep.mute else [])]


def _order(sweep: Sweep, name: str) -> tuple[int, list[int], list[int], list[int]]:
    """The cheapest setting that no other beats; what costs more and is not shown to be worse; what it beats; what is
    cheaper, which another one beats."""
    every = by_cost(sweep.settings, sweep.work)
    chosen = sweep.unbeaten([name])
    worse = [index for index in every if sweep.better(name, chosen, index)]
    place = every.index(chosen)
    rest = [[index for index in part if index not in worse] for part in (every[place + 1 :], every[:place])]
    return chosen, rest[0], worse, rest[1]


def _sentence(sweep: Sweep, names: list[str]) -> str:
    name, *_ = names
    chosen, level, worse, cheaper = _order(sweep, name)
    parts = []
    if level:
        enough = "is enough" if _is_amount(sweep, chosen, level) else "will do"
        others = _others(sweep, level, "or", "any other setting")
        where = listed(could_have_shown(sweep, names, chosen, level))
        parts.append(f"{sweep.full(chosen)} {enough}: no evidence that {others} is better in {where}")
    if worse:
        others, by = _others(sweep, worse, "and", "every other setting"), _by(sweep, name, chosen, worse)
        who, where = ("it", "") if level else (sweep.full(chosen), f" in {name}")
        parts.append(f"{who} is better than {others}{where} ({by})")
    for index in cheaper[:MANY]:
        rival = next(other for other in by_cost(sweep.settings, sweep.work) if sweep.better(name, other, index))
        parts.append(f"{sweep.short(index)} is worse than {sweep.short(rival)} ({_by(sweep, name, rival, [index])})")
    if more := len(cheaper[MANY:]):
        parts.append(
            f"so {'is' if more == 1 else 'are'} {more} more cheaper one{'' if more == 1 else 's'} than another"
        )
    return f"{'; '.join(parts)}."


def _others(sweep: Sweep, settings: list[int], last: str, all_others: str) -> str:
    """Settings by name, or in other words where they are too many to read."""
    if len(settings) <= MANY:
        return listed(map(sweep.short, settings), last)
    if len(settings) == len(sweep.settings) - 1:
        return all_others
    return f"{'any' if last == 'or' else 'each'} of {len(settings)} others"


def _is_amount(sweep: Sweep, chosen: int, others: list[int]) -> bool:
    if len(sweep.keys) != 1 or sweep.keys[0] not in AMOUNTS:
        return False
    own, *values = (number(sweep.settings[index].overrides.get(sweep.keys[0])) for index in [chosen, *others])
    return own is not None and all(value is not None and value > own for value in values)


def _by(sweep: Sweep, name: str, ours: int, others: list[int]) -> str:
    differences = [abs(sweep.row(name, ours, other)["difference"]) for other in others]
    least, most = (size(sweep.metrics[name], limit(differences)) for limit in (min, max))
    return f"by {most}" if least == most else f"by {least.split()[0]} to {most}"


def could_have_shown(sweep: Sweep, names: list[str], ours: int, others: list[int]) -> list[str]:
    """Metrics, each with what its comparisons without evidence could have shown (the largest of their `detectable`).

    On what basis is said in full where it changes.
    """
    said, before = [], None
    for name in names:
        differences = [sweep.row(name, ours, other)["detectable"] for other in others]
        basis = _basis(sweep, name, [ours, *others])
        if None in differences:
            said.append(f"{name} ({basis} are too few to show any)")
            continue
        if not max(differences):
            said.append(f"{name} ({SAME})")
            continue
        shown = size(sweep.metrics[name], max(differences))
        said.append(f"{name} ({shown})" if basis == before else f"{name} ({basis} could have shown {shown})")
        before = basis
    return said


def _basis(sweep: Sweep, name: str, settings: list[int]) -> str:
    counts = sorted({len(sweep.settings[index].runs) for index in settings})
    trainings = "" if counts[-1] == 1 else f" and {' or '.join(map(str, counts))} trainings of each"
    return f"{basis(sweep.values[name][settings[0]])}{trainings}"


def duration(seconds: float) -> str:
    """A time as people say it, one below 10 seconds to two digits."""
    return f"{seconds:.2g} s" if seconds < 10 else console.duration(seconds)


def listed(words: Iterable[str], last: str = "and") -> str:
    """Words as a list in a sentence: `a, b and c`."""
    *first, end = words
    return f"{', '.join(first)} {last} {end}" if first else end


def _count(number: int) -> str:
    words = "Zero One Two Three Four Five Six Seven Eight Nine".split()
    return words[number].lower() if number < len(words) else str(number)
