"""Compare the settings of a sweep, and say which is enough: a page for people, a table for programs, and figures.

Reads eval.json, the examples and train.json of every point. Points that differ in the seed alone are trainings of one
setting. Writes report.html, table.tsv (a line a setting, with its verdicts against the first) and plots/ (PNG and SVG).

    python scripts/compare_sweep.py --output results/sweeps/rank \
        --points '[["dpo_lora,rank=4", {"rank": 4}], ["dpo_lora", {"rank": 16}]]'
"""

import csv
import json
import math
import shutil
import textwrap
from pathlib import Path
from typing import Any

import numpy as np

from posttrain import figures, page, sweeps
from posttrain.cli import columns as aligned
from posttrain.examples import PARENTS, columns, key, measured, read_examples
from posttrain.stage import arguments, read_json, run, say, whole_file, whole_folder
from posttrain.statistics import is_share
from posttrain.sweeps import Sweep

SHORT, MOST = 3, 6  # digits of a value, and the most after the point


def main(options) -> None:
    sweep = read(options.output.name, json.loads(options.points))
    write_table(options.output / "table.tsv", sweep)
    with whole_folder(options.output / "plots") as folder:
        drawn = {name: draw_metric(folder / name.replace("/", "_"), sweep, name) for name in sweep.metrics}
        costs = [draw_cost(folder / "cost", sweep, "seconds"), draw_cost(folder / "memory", sweep, "memory")]
    with whole_file(options.output / "report.html") as file:
        file.write_text(html(sweep, drawn, costs), encoding="utf-8")
    say(printed(sweep, shutil.get_terminal_size().columns) + f"\nSee {options.output}/report.html\n")


# ---- what was measured


def read(name: str, points: list[tuple[str, dict[str, Any]]]) -> Sweep:
    """The settings of a sweep with their metrics, their costs, and their verdicts against each other."""
    settings = sweeps.settings(points)
    results = {point: read_json(Path(f"results/{point}/eval.json"))["metrics"] for point, _ in points}
    training = {point: read_json(Path(f"results/{point}/train.json")) for point, _ in points}
    metrics, trainings = measure(settings, results)
    values = {
        metric: [
            sweeps.summary(metrics[metric], own, results[setting.runs[0]][metric])
            for setting, own in zip(settings, trainings[metric], strict=True)
        ]
        for metric in metrics
    }
    parents = {read_json(Path(f"results/{point}/spec.json"))["from"]["name"] for point, _ in points}
    comparable = {
        metric: own for metric, own in trainings.items() if len(parents) == 1 or metric.split("/")[-1] not in PARENTS
    }
    rows = sweeps.compare_all(metrics, comparable)
    seconds = [float(np.mean([training[point]["seconds"] for point in setting.runs])) for setting in settings]
    memory = [max(training[point]["memory_gib"] for point in setting.runs) for setting in settings]
    return Sweep(name, settings, metrics, values, rows, seconds, memory)


def measure(settings: list[sweeps.Setting], results: dict[str, dict]) -> tuple[dict, dict[str, list[sweeps.Trainings]]]:
    """The metrics that every point has, and each of them for every setting, on the same examples in the same order."""
    examples = {point: read_examples(point) for point in results}
    first = list(next(iter(examples.values())).values())
    metrics, found = {}, {}
    for name, metric, rows in measured(first):
        if all(name in result for result in results.values()):
            keys = [key(row) for row in rows]
            metrics[name] = metric
            found[name] = [
                sweeps.measure(
                    metric, [columns(metric, [examples[point][at] for at in keys]) for point in setting.runs]
                )
                for setting in settings
            ]
    return metrics, found


# ---- the table


def write_table(path: Path, sweep: Sweep) -> None:
    """One line a setting: runs, overrides and costs; then value, interval, spread and verdict of every metric."""
    parts = "low high sd difference difference_low difference_high p verdict".split()
    header = [name for metric in sweep.metrics for name in (metric, *(f"{metric}_{part}" for part in parts))]
    keys = list(dict.fromkeys(name for setting in sweep.settings for name in setting.overrides))
    with whole_file(path) as beside, beside.open("w", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(["runs", *keys, "seconds", "memory_gib", *header])
        for index, setting in enumerate(sweep.settings):
            overrides = [sweeps.text(setting.overrides.get(name, "")) for name in keys]
            costs = [f"{cost[index]:.6g}" for cost in (sweep.seconds, sweep.memory)]
            cells = [cell for metric in sweep.metrics for cell in _cells(sweep, metric, index)]
            writer.writerow([" ".join(setting.runs), *overrides, *costs, *cells])


def _cells(sweep: Sweep, metric: str, index: int) -> list[str]:
    value = sweep.values[metric][index]
    cells = [value[part] for part in ("value", "low", "high", "sd")]
    row = sweep.rows.get((metric, 0, index), {})
    cells += [row.get(part) for part in ("difference", "low", "high", "p", "verdict")]
    return ["" if cell is None else cell if isinstance(cell, str) else f"{cell:.6g}" for cell in cells]


# ---- at the terminal


def printed(sweep: Sweep, width: int) -> str:
    """A short table and what it says, no wider than the terminal."""
    lines = [["", *sweep.metrics]]
    for index in range(len(sweep.settings)):
        cells = []
        for name in sweep.metrics:
            verdict = sweep.rows.get((name, 0, index), {}).get("verdict", "")
            value = shown(sweep, name, sweep.values[name][index]["value"])
            cells.append(value + (f" {verdict}" if verdict in ("better", "worse") else ""))
        lines.append([sweep.label(index), *cells])
    said = [*sweeps.answer(sweep), *sweeps.sentences(sweep)]
    wrapped = [textwrap.fill(sentence, width, subsequent_indent="  ") for sentence in said]
    note = ""
    if sweep.rows:
        note = textwrap.fill(f"better, worse: than {sweep.label(0)}, {_corrected(sweep)}.", width) + "\n\n"
    return "\n\n".join(folded(lines, width)) + "\n\n" + note + "\n".join(wrapped) + "\n"


def folded(lines: list[list[str]], width: int) -> list[str]:
    """A table as several below each other, each with the first column, where it is wider than the terminal."""
    blocks, start = [], 1
    while start < len(lines[0]):
        end = start + 1
        while end < len(lines[0]) and _width(lines, [0, *range(start, end + 1)]) <= width:
            end += 1
        blocks.append(aligned([[line[0], *line[start:end]] for line in lines]))
        start = end
    return blocks


def _width(lines: list[list[str]], chosen: list[int]) -> int:
    return sum(max(len(line[column]) for line in lines) + 2 for column in chosen) - 2


def _corrected(sweep: Sweep) -> str:
    count = len(sweep.rows)
    return "the only comparison" if count == 1 else f"corrected for all {count} comparisons (Holm)"


def shown(sweep: Sweep, name: str, value: float, sign: str = "") -> str:
    """A value to the digit that the comparisons can tell apart, three at least; a share in percent."""
    if is_share(name):
        text = f"{100 * value:{sign}.1f}".removesuffix(".0") + ("" if sign else "%")
    else:
        digits = _digits(sweep, name)
        text = f"{value:{sign}.{digits}f}" if digits <= MOST else f"{value:{sign}.{SHORT}g}"
    return text if text.strip("+-0.%") else text.lstrip("+-")


def _digits(sweep: Sweep, name: str) -> int:
    """Digits after the point."""
    widths = [row["high"] - row["low"] for (metric, *_), row in sweep.rows.items() if metric == name]
    finest = min((width for width in widths if width), default=math.inf)
    size = max(abs(row["value"]) for row in sweep.values[name])
    digits = SHORT - 1 - (math.floor(math.log10(size)) if size else 0)
    if finest < math.inf:
        digits = max(digits, min(MOST, -math.floor(math.log10(finest))))
    return max(digits, 0)


# ---- figures


def draw_metric(stem: Path, sweep: Sweep, name: str) -> str:
    """A metric against the swept value, with intervals and the single trainings; returns the SVG for the page."""
    pyplot = figures.pyplot()
    figure, axis = pyplot.subplots(figsize=(4.6, 2.9))
    if not sweep.keys:
        _draw_seeds(axis, sweep, name)
    else:
        _draw_settings(axis, sweep, name)
    axis.set_title(name, loc="left")
    axis.set_ylabel("higher is better" if sweep.metrics[name].higher_is_better else "lower is better")
    return figures.save(figure, stem, f"{name} of every setting with its 95 % interval")


def _draw_seeds(axis: Any, sweep: Sweep, name: str) -> None:
    own = sweep.values[name][0]
    for place, value in enumerate(own["trainings"]):
        axis.plot(place, value, "o")
    axis.axhspan(own["low"], own["high"], alpha=0.12)
    axis.set_xticks(range(len(own["trainings"])), [sweeps.text(seed) for seed in sweep.settings[0].seeds])
    axis.set_xlabel("seed")


def _draw_settings(axis: Any, sweep: Sweep, name: str) -> None:
    along, across = layout(sweep)
    places, scale = positions(sweep, along)
    lines: dict[str, list[int]] = {}
    for index, setting in enumerate(sweep.settings):
        lines.setdefault(sweeps.text(setting.overrides.get(across, "")) if across else "", []).append(index)
    for number, (title, members) in enumerate(lines.items()):
        members.sort(key=places.__getitem__)
        own = [sweep.values[name][index] for index in members]
        at = [places[index] for index in members]
        shift = _aside(axis, 5 * (number - (len(lines) - 1) / 2))
        values, low, high = ([row[part] for row in own] for part in ("value", "low", "high"))
        colour = figures.COLOURS[number % len(figures.COLOURS)]
        style = "-" if scale != "categories" or across else ""
        axis.plot(at, values, style, color=colour, alpha=0.35, transform=shift)
        axis.vlines(at, low, high, color=colour, transform=shift)
        axis.plot(at, values, "o", color=colour, transform=shift, label=f"{across} {title}")
        dots = [
            (place, value)
            for place, row in zip(at, own, strict=True)
            for value in row["trainings"]
            if row["sd"] is not None
        ]
        if dots:
            axis.plot(*zip(*dots, strict=True), "_", color=colour, alpha=0.8, transform=shift)
    _finish(axis, sweep, along, places, scale)
    lows, highs = ([row[part] for row in sweep.values[name]] for part in ("low", "high"))
    room = 0.08 * (max(highs) - min(lows)) or 0.05  # what is drawn aside does not count in the limits
    axis.set_ylim(min(lows) - room, max(highs) + room)
    if across:
        axis.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))


def _aside(axis: Any, points: float) -> Any:
    """Where the data are, a few points to the side, so that intervals at the same place are seen."""
    from matplotlib.transforms import ScaledTranslation

    return axis.transData + ScaledTranslation(points / 72, 0, axis.figure.dpi_scale_trans)


def _finish(axis: Any, sweep: Sweep, along: str | None, places: list[float], scale: str) -> None:
    if scale == "categories":
        names = {place: sweep.label(index) for index, place in enumerate(places)}
        if along:
            names = {place: sweeps.text(sweep.settings[i].overrides.get(along, "")) for i, place in enumerate(places)}
        crowded = sum(map(len, names.values())) > 40
        axis.set_xticks(list(names), names.values(), rotation=30 if crowded else 0, ha="right" if crowded else "center")
        axis.set_xlim(min(places) - 0.5, max(places) + 0.5)
    else:
        axis.set_xscale(scale)
        ticks = sorted(set(places))
        axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axis.minorticks_off()
        low, high = ticks[0], ticks[-1]
        room = (high / low) ** 0.12 if scale == "log" else 0.12 * (high - low)
        axis.set_xlim((low / room, high * room) if scale == "log" else (low - room, high + room))
    axis.set_xlabel(along or "")


def layout(sweep: Sweep) -> tuple[str | None, str | None]:
    """The key along the axis, and the one whose values are lines; without either every setting stands on its own."""
    if len(sweep.keys) == 1:
        return sweep.keys[0], None
    if len(sweep.keys) > 2:
        return None, None

    def most_values(name: str) -> tuple:
        values = {setting.overrides.get(name) for setting in sweep.settings}
        return all(sweeps.number(value) is not None for value in values), len(values)

    along = max(sweep.keys, key=most_values)
    (across,) = set(sweep.keys) - {along}
    lines = {sweeps.text(setting.overrides.get(across, "")) for setting in sweep.settings}
    return (along, across) if len(lines) < len(sweep.settings) else (None, None)


def positions(sweep: Sweep, along: str | None) -> tuple[list[float], str]:
    """Where every setting stands on the axis, and the axis: linear, log or categories."""
    if along is None:
        return list(range(len(sweep.settings))), "categories"
    values = [setting.overrides.get(along) for setting in sweep.settings]
    numbers = [sweeps.number(value) for value in values]
    if None in numbers:
        order = list(dict.fromkeys(map(sweeps.text, values)))
        return [order.index(sweeps.text(value)) for value in values], "categories"
    return numbers, axis_scale(numbers)


def axis_scale(numbers: list[float]) -> str:
    """`log` where the values span a decade or more and their ratios are more even than their differences."""
    ordered = np.unique(numbers)
    if len(ordered) < 2 or ordered[0] <= 0 or ordered[-1] < 10 * ordered[0]:
        return "linear"
    largest = [np.diff(scaled).max() / (scaled[-1] - scaled[0]) for scaled in (ordered, np.log(ordered))]
    return "log" if largest[1] < largest[0] else "linear"


COSTS = {"seconds": "seconds of training", "memory": "peak memory, GiB"}


def draw_cost(stem: Path, sweep: Sweep, cost: str) -> str:
    """Every metric against a cost, the Pareto front drawn as a line and named; returns the SVG for the page."""
    pyplot = figures.pyplot()
    names = telling(sweep)
    figure, axes = pyplot.subplots(len(names), figsize=(4.6, 2.5 * len(names)), squeeze=False)
    costs = getattr(sweep, cost)
    for axis, name in zip(axes[:, 0], names, strict=True):
        values = [row["value"] for row in sweep.values[name]]
        best = sweeps.front(costs, values, sweep.metrics[name].higher_is_better)
        axis.plot(costs, values, "o", color=figures.COLOURS[5], markerfacecolor="none")
        axis.plot([costs[i] for i in best], [values[i] for i in best], "o-", color=figures.COLOURS[0])
        for index in best:
            right = costs[index] > (min(costs) + max(costs)) / 2
            axis.annotate(
                sweep.label(index).replace(",", ",\n"),
                (costs[index], values[index]),
                xytext=(-6 if right else 6, 5),
                textcoords="offset points",
                ha="right" if right else "left",
                fontsize=8,
            )
        axis.margins(x=0.3, y=0.3)
        axis.locator_params(nbins=5)
        axis.set_ylabel(name)
    axes[-1, 0].set_xlabel(COSTS[cost])
    return figures.save(figure, stem, f"Metrics against {COSTS[cost]}; the Pareto front is a line with names")


def telling(sweep: Sweep) -> list[str]:
    """The metrics in which the settings differ at all; the first where none does."""
    names = [name for name, rows in sweep.values.items() if len({row["value"] for row in rows}) > 1]
    return names or list(sweep.metrics)[:1]


# ---- the page


def html(sweep: Sweep, drawn: dict[str, str], costs: list[str]) -> str:
    """The sweep as a page."""
    fronts = {
        name: sweeps.front(sweep.seconds, [row["value"] for row in sweep.values[name]], metric.higher_is_better)
        for name, metric in sweep.metrics.items()
    }
    return page.render(
        "sweep.html",
        filters={"p": probability, "duration": sweeps.duration},
        sweep=sweep,
        several=max(len(setting.runs) for setting in sweep.settings) > 1,
        answer=[*sweeps.answer(sweep), *sweeps.sentences(sweep)],
        metrics=[_metric(sweep, name, drawn[name]) for name in sweep.metrics],
        fronts=fronts,
        telling=telling(sweep),
        costs=costs,
        trainings=sum(len(setting.runs) for setting in sweep.settings),
    )


def _metric(sweep: Sweep, name: str, figure: str) -> dict[str, Any]:
    pairs = [(ours, theirs) for metric, theirs, ours in sweep.rows if metric == name]
    return {
        "name": name,
        "compared": name in sweep.compared,
        "better": "higher" if sweep.metrics[name].higher_is_better else "lower",
        "n": sweep.values[name][0]["n"],
        "figure": figure,
        "rows": [_row(sweep, name, index) for index in range(len(sweep.settings))],
        "pairs": [
            {"label": f"{sweep.label(ours)} against {sweep.label(theirs)}", **_difference(sweep, name, ours, theirs)}
            for ours, theirs in pairs
            if len(pairs) > len(sweep.settings) - 1
        ],
    }


def _row(sweep: Sweep, name: str, index: int) -> dict[str, Any]:
    value = sweep.values[name][index]
    low, high = (shown(sweep, name, value[part]) for part in ("low", "high"))
    row = {"label": sweep.label(index), "value": shown(sweep, name, value["value"]), "interval": f"[{low}, {high}]"}
    row |= {"spread": "one training", "range": "", "verdict": ""}
    if value["sd"] is not None:
        least, most = (shown(sweep, name, limit(value["trainings"])) for limit in (min, max))
        row |= {"spread": f"sd {sweeps.size(sweep.metrics[name], value['sd'])}", "range": f"{least} to {most}"}
    return row | (_difference(sweep, name, index, 0) if (name, 0, index) in sweep.rows else {})


def _difference(sweep: Sweep, name: str, ours: int, theirs: int) -> dict[str, Any]:
    row = sweep.row(name, ours, theirs)
    difference, low, high = (shown(sweep, name, row[part], "+") for part in ("difference", "low", "high"))
    detectable = row.get("detectable")
    could = sweeps.size(sweep.metrics[name], detectable) if detectable is not None else "nothing"
    interval = f"[{low}, {high}]" + (" points" if is_share(name) else "")
    return {"difference": difference, "between": interval, "could": could, "p": row["p"], "verdict": row["verdict"]}


def probability(p: float) -> str:
    """A p-value as people read it."""
    return "<0.001" if p < 0.001 else f"{p:.2g}"


if __name__ == "__main__":
    run(arguments(__doc__, points=str, output=Path), main)
