"""Compare the settings of a sweep, and say which is enough: a page for people, a table for programs, and figures.

Reads the context, which names the sweep's points, and eval.json, the examples and train.json of every point. Points that differ in
the seed alone are trainings of one setting. Writes report.html, table.tsv (a line a setting, with its verdicts against the first)
and plots/ (PNG and SVG).

    python scripts/compare_sweep.py --context results/sweeps/rank/context.json --output results/sweeps/rank
"""

import csv
import shutil
import textwrap
from pathlib import Path

from posttrain.cli.table import columns as aligned
from posttrain.reports import formatting, sweep_page, sweep_results, sweeps
from posttrain.reports.sweep_figures import draw_cost, draw_metric
from posttrain.reports.sweep_sentences import answer, sentences
from posttrain.reports.sweeps import Sweep
from posttrain.runtime.atomic import read_json, whole_file, whole_folder
from posttrain.runtime.console import say
from posttrain.runtime.script import arguments, run

SAME_MEMORY = 1.02  # peaks whose ratio is smaller are not drawn: nobody chooses by less


def main(options) -> None:
    sweep = sweep_results.read(options.output.name, read_json(options.context)["points"])
    write_table(options.output / "table.tsv", sweep)
    with whole_folder(options.output / "plots") as folder:
        figures = {name: draw_metric(folder / name.replace("/", "_"), sweep, name) for name in sweep.metrics}
        cost_figures = [draw_cost(folder / "cost", sweep, "work")]
        if max(sweep.memory) > SAME_MEMORY * min(sweep.memory):
            cost_figures.append(draw_cost(folder / "memory", sweep, "memory"))
    with whole_file(options.output / "report.html") as file:
        file.write_text(sweep_page.page(sweep, figures, cost_figures), encoding="utf-8")
    say(printed(sweep, shutil.get_terminal_size().columns) + f"\nSee {options.output}/report.html\n", "table")


# ---- the table


def write_table(path: Path, sweep: Sweep) -> None:
    """One line a setting: runs, overrides, costs and overruled checks; then value, interval, spread and verdict of every metric."""
    parts = "low high n clusters sd difference difference_low difference_high p verdict".split()
    header = [name for metric in sweep.metrics for name in (metric, *(f"{metric}_{part}" for part in parts))]
    keys = list(dict.fromkeys(name for setting in sweep.settings for name in setting.overrides))
    with whole_file(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(["runs", *keys, "work", "work_unit", "seconds", "memory_gib", "overruled", *header])
        for index, setting in enumerate(sweep.settings):
            overrides = [sweeps.text(setting.overrides.get(name, "")) for name in keys]
            work, seconds, memory = (f"{cost[index]:.6g}" for cost in (sweep.work, sweep.seconds, sweep.memory))
            costs = [work, sweep.unit, seconds, memory, sweep.touched(index)]
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
            value = formatting.value(name, sweep.values[name][index])
            shown = f" {word}" if word in ("better", "worse") else ""
            touched = sweep.touched(0, index)
            cells.append(value + shown + (f" (overruled: {touched})" if shown and touched else ""))
        lines.append([sweep.label(index), *cells])
    wrapped = [
        textwrap.fill(sentence, width, subsequent_indent="  ") for sentence in [*answer(sweep), *sentences(sweep)]
    ]
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


if __name__ == "__main__":
    run(arguments(__doc__, context=Path, output=Path), main)
