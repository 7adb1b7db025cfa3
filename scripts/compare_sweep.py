"""Compare the settings of a sweep, and say which is enough: a page for people, a table for programs, and figures.

Reads eval.json, the examples and train.json of every point. Points that differ in the seed alone are trainings of one
setting. Writes report.html, table.tsv (a line a setting, with its verdicts against the first) and plots/ (PNG and SVG).

    python scripts/compare_sweep.py --output results/sweeps/rank \
        --points '[["dpo_lora,rank=4", {"rank": 4}], ["dpo_lora", {"rank": 16}]]'
"""

import csv
import json
import shutil
import textwrap
from pathlib import Path
from typing import Any

import numpy as np

from posttrain.cli.main import columns as aligned
from posttrain.evaluation.example_scores import PARENTS, clusters, columns, key, measured, read_examples
from posttrain.metrics.paired import Measured
from posttrain.metrics.paired import measure as measure_one
from posttrain.metrics.statistics import SAME, basis, is_share, size, verdict
from posttrain.reports import overruled, page, sweeps, work
from posttrain.reports.sweep_figures import draw_cost, draw_metric, shown, telling
from posttrain.reports.sweeps import Sweep
from posttrain.runtime.atomic import read_json, whole_file, whole_folder
from posttrain.runtime.console import say
from posttrain.runtime.script import arguments, run


def main(options) -> None:
    sweep = read(options.output.name, json.loads(options.points))
    write_table(options.output / "table.tsv", sweep)
    with whole_folder(options.output / "plots") as folder:
        drawn = {name: draw_metric(folder / name.replace("/", "_"), sweep, name) for name in sweep.metrics}
        costs = [draw_cost(folder / "cost", sweep, "work"), draw_cost(folder / "memory", sweep, "memory")]
    with whole_file(options.output / "report.html") as file:
        file.write_text(html(sweep, drawn, costs), encoding="utf-8")
    say(printed(sweep, shutil.get_terminal_size().columns) + f"\nSee {options.output}/report.html\n", "table")


# ---- what was measured


def read(name: str, points: list[tuple[str, dict[str, Any]]]) -> Sweep:
    """The settings of a sweep with their metrics, their costs, and their verdicts against each other."""
    settings = sweeps.settings(points)
    runs = [point for point, _ in points]
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
    each, unit = work.of_each(runs)
    touching = tuple(tuple(overruled.of(*setting.runs)) for setting in settings)
    amounts = [float(np.mean([each[point] for point in setting.runs])) for setting in settings]
    return Sweep(name, settings, metrics, values, rows, amounts, seconds, memory, unit, touching)


def measure(settings: list[sweeps.Setting], results: dict[str, dict]) -> tuple[dict, dict[str, list[Measured]]]:
    """The metrics that every point has, and each of them for every setting, on the same examples in the same order."""
    examples = {point: read_examples(point) for point in results}
    first = list(next(iter(examples.values())).values())
    metrics, found = {}, {}
    for name, metric, rows in measured(first):
        if all(name in result for result in results.values()):
            keys = [key(row) for row in rows]
            metrics[name] = metric
            found[name] = [
                measure_one(
                    metric,
                    [columns(metric, [examples[point][at] for at in keys]) for point in setting.runs],
                    clusters(rows),
                )
                for setting in settings
            ]
    return metrics, found


# ---- the table


def write_table(path: Path, sweep: Sweep) -> None:
    """One line a setting: runs, overrides, costs and overruled checks; then value, interval, spread and verdict of every metric."""
    parts = "low high n clusters sd difference difference_low difference_high p verdict".split()
    header = [name for metric in sweep.metrics for name in (metric, *(f"{metric}_{part}" for part in parts))]
    keys = list(dict.fromkeys(name for setting in sweep.settings for name in setting.overrides))
    with whole_file(path) as beside, beside.open("w", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(["runs", *keys, "work", "work_unit", "seconds", "memory_gib", "overruled", *header])
        for index, setting in enumerate(sweep.settings):
            overrides = [sweeps.text(setting.overrides.get(name, "")) for name in keys]
            work_, seconds, memory = (f"{cost[index]:.6g}" for cost in (sweep.work, sweep.seconds, sweep.memory))
            costs = [work_, sweep.unit, seconds, memory, sweep.touched(index)]
            cells = [cell for metric in sweep.metrics for cell in _cells(sweep, metric, index)]
            writer.writerow([" ".join(setting.runs), *overrides, *costs, *cells])


def _cells(sweep: Sweep, metric: str, index: int) -> list[str]:
    value = sweep.values[metric][index]
    cells = [value["value"], value["low"], value["high"], value["n"], value.get("clusters", value["n"]), value["sd"]]
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
            word = sweep.rows.get((name, 0, index), {}).get("verdict", "")
            value = shown(sweep, name, sweep.values[name][index]["value"])
            told = f" {word}" if word in ("better", "worse") else ""
            touched = sweep.touched(0, index)
            cells.append(value + told + (f" (overruled: {touched})" if told and touched else ""))
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


# ---- the page


def html(sweep: Sweep, drawn: dict[str, str], costs: list[str]) -> str:
    """The sweep as a page."""
    fronts = {
        name: sweeps.front(sweep.work, [row["value"] for row in sweep.values[name]], metric.higher_is_better)
        for name, metric in sweep.metrics.items()
    }
    return page.render(
        "sweep.html",
        filters={"p": probability, "duration": sweeps.duration},
        amounts=[work.amount(amount, sweep.unit) for amount in sweep.work],
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
        "basis": basis(sweep.values[name][0]),
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
        row |= {"spread": f"sd {size(sweep.metrics[name], value['sd'])}", "range": f"{least} to {most}"}
    return row | (_difference(sweep, name, index, 0) if (name, 0, index) in sweep.rows else {})


def _difference(sweep: Sweep, name: str, ours: int, theirs: int) -> dict[str, Any]:
    row = sweep.row(name, ours, theirs)
    difference, low, high = (shown(sweep, name, row[part], "+") for part in ("difference", "low", "high"))
    detectable = row.get("detectable")
    interval = f"[{low}, {high}]" + (" points" if is_share(name) else "")
    could = "" if detectable is None else SAME if not detectable else size(sweep.metrics[name], detectable)
    return {
        "difference": difference,
        "between": interval,
        "could": could,
        "p": row["p"],
        "verdict": verdict(row),
        "overruled": sweep.touched(ours, theirs),
    }


def probability(p: float) -> str:
    """A p-value as people read it."""
    return "<0.001" if p < 0.001 else f"{p:.2g}"


if __name__ == "__main__":
    run(arguments(__doc__, points=str, output=Path), main)
