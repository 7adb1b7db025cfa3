"""`posttrain table`: the models side by side, and one prompt with each model's completion."""

import argparse
import json
import shutil
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

from posttrain.cli import configuration, models
from posttrain.metrics.statistics import shown
from posttrain.reports import cases, verdict_lines
from posttrain.runtime.atomic import read_json
from posttrain.runtime.errors import UserError
from posttrain.workflow import paths

if TYPE_CHECKING:
    from posttrain.workflow.project import Project


def run(options: argparse.Namespace) -> None:
    """Print the table, or what is in each eval.json; a name without results is looked up in the configuration."""
    names = [paths.target(name).name for name in options.names]
    if not all(map(_is_evaluated, names)):
        project, _ = configuration.project(options)
        names = [name if _is_evaluated(name) else _evaluated(project, name) for name in names]
    if options.json:
        print(json.dumps({name: _result(name) for name in names}, ensure_ascii=False))
    else:
        print(table(names))


def not_evaluated(name: str, command: str) -> UserError:
    """The error for a model without results."""
    return UserError("not-built", name, "it is not evaluated yet", f"run: {command}")


def _is_evaluated(name: str) -> bool:
    return _file(name).exists()


def _file(name: str) -> Path:
    """A model's metrics; where a judge has yet to add to them, those without it."""
    files = Path(paths.evaluation(name)), Path(paths.measured(name))
    return next((file for file in files if file.exists()), files[0])


def _evaluated(project: "Project", name: str) -> str:
    """The canonical name of a model that is evaluated.

    Raises:
        UserError: there is no such base or run, or it is not evaluated.
    """
    canonical = models.canonical(project, name)
    if not _is_evaluated(canonical):
        raise not_evaluated(name, project.command(paths.evaluation(canonical)))
    return canonical


def table(names: list[str]) -> str:
    """Metrics of several models with their intervals and verdicts, and one question with everyone's answer.

    Raises:
        UserError: one of them is not evaluated.
    """
    results = [_result(name) for name in names]
    metrics = list(dict.fromkeys(metric for result in results for metric in result["metrics"]))
    rows = [["", *metrics]]
    rows += [
        [name, *(_cell(result, metric) for metric in metrics)] for name, result in zip(names, results, strict=True)
    ]
    fewest = min(rows, list(zip(*rows, strict=True)), key=lambda lines: len(lines[0]))
    text = columns(fewest)
    verdicts = [
        textwrap.fill(line, _width(), subsequent_indent="  ", break_on_hyphens=False, break_long_words=False)
        for result in results
        for line in [
            *verdict_lines.of(result),
            *verdict_lines.judged(result),
            *cases.red(result),
            *as_it_ships(result),
        ]
    ]
    basis = textwrap.fill(verdict_lines.measured_on(results), _width(), subsequent_indent="  ")
    parts = [f"{text}\n\n{basis}", "\n".join(verdicts), _question(names)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _width() -> int:
    return min(shutil.get_terminal_size().columns, 110)


def _result(name: str) -> dict:
    file = _file(name)
    if not file.exists():
        raise not_evaluated(name, f"snakemake --cores 1 {file}")
    return read_json(file)


def _cell(result: dict, metric: str) -> str:
    if metric not in result["metrics"]:
        return "-"
    value, low, high = (shown(metric, result["metrics"][metric][part]) for part in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def columns(rows: list[list[str]]) -> str:
    """Rows of cells as text, the first underlined as the header."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


def as_it_ships(result: dict) -> list[str]:
    """One line with the values of the weights that ship, where their type is another than what was trained."""
    if "shipped" not in result:
        return []
    found = result["shipped"]
    values = [f"{metric} {shown(metric, row['value'])}" for metric, row in found["metrics"].items()]
    return [f"{result['run']} as it ships, in {found['dtype']}: {', '.join(values)}"]


def _question(names: list[str]) -> str:
    """The first generated question and each model's answer, without what it thought."""
    import pyarrow.parquet as pq

    from posttrain.data import thoughts

    tables = [pq.read_table(paths.examples(name)).to_pylist() for name in names]
    asked = [[row for row in rows if row["output"] is not None] for rows in tables]
    if not all(asked):
        return ""
    width = _width()
    first = asked[0][0]
    parts = [("question", first["prompt"]), ("reference", first["reference"])]
    parts += [(name, thoughts.answer(rows[0]["output"])) for name, rows in zip(names, asked, strict=True)]
    margin = max(len(label) for label, _ in parts) + 2
    return "\n".join(_paragraph(label, text, margin, width) for label, text in parts if text is not None)


def _paragraph(label: str, text: str, margin: int, width: int) -> str:
    lines = [
        piece for line in text.strip().splitlines() for piece in textwrap.wrap(line, max(20, width - margin)) or [""]
    ]
    return "\n".join((label if i == 0 else "").ljust(margin) + line for i, line in enumerate(lines or [""]))
