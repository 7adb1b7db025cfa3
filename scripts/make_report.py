"""Put everything that the runs left into one page for people, which needs no network, and its figures beside it.

Reads each model's eval.json and eval/examples.parquet, each run's train.jsonl, train.json, preflight.json, merge.json and
provenance.json, and the data reports that are there; writes the page, and two figures of each run as PNG and SVG.

    python scripts/make_report.py --context PACKED --cores 2 --output results/report.html --figures results/figures

PACKED is what `Project.report` says, as `stage.packed` writes it.
"""

import gc
import math
from functools import partial
from pathlib import Path
from typing import Any

from posttrain.reports import curves, figures, page, report
from posttrain.runtime.atomic import unpacked, whole_file, whole_folder
from posttrain.runtime.console import say
from posttrain.runtime.errors import UserError
from posttrain.runtime.parallel import ordered_map
from posttrain.runtime.script import arguments, run

FIRST = 12  # runs whose verdicts are said before one has to ask for more
OPEN = 4  # runs; of more, each one's curves and answers are closed at first


def main(options) -> None:
    context = unpacked(options.context)
    if all(model["kind"] == "base" for model in context["models"]):
        raise UserError(f"{context['config']}: there are no runs to report on; write one under runs:")
    found = report.collect(context)
    with whole_folder(options.figures) as folder:
        for _ in ordered_map(partial(draw, folder=folder), found["runs"], options.cores):
            pass
    text = html(found)
    with whole_file(options.output) as file:
        file.write_text(text, encoding="utf-8")
    say(f"report: {len(found['models'])} models, {len(text.encode()) / 2**20:.1f} MiB, see {options.output}", "summary")


def draw(trained: dict[str, Any], folder: Path) -> None:
    """Write a run's loss, and all its curves, as figures."""
    panels = curves.panels(trained["steps"], trained["train"].get("held_out"))
    pyplot = figures.pyplot()
    for what, shown in (("loss", panels[:1]), ("training", panels)):
        columns = min(3, len(shown))
        lines = math.ceil(len(shown) / columns)
        figure, axes = pyplot.subplots(lines, columns, figsize=(3.6 * columns, 2.5 * lines), squeeze=False)
        for axis, panel in zip(axes.flat, shown, strict=False):
            curves.draw(axis, panel)
        for axis in axes.flat[len(shown) :]:
            axis.remove()
        figures.save(figure, folder / f"{trained['name']}-{what}", f"{what} of {trained['name']}")
    gc.collect()  # a figure is a circle of objects, which `ordered_map` does not look for


def html(found: dict[str, Any]) -> str:
    """The page."""
    panels, ids = [], {}
    for trained in found["curves"]:
        ids[trained["name"]] = len(panels)
        panels += [{key: panel[key] for key in ("across", "mark", "series", "unit")} for panel in trained["panels"]]
    return page.render(
        "report.html",
        filters=report.FILTERS,
        report=found,
        sections=sections(found),
        curves=report.as_json(panels),
        ids=ids,
        first=FIRST,
        open=OPEN,
    )


def sections(found: dict[str, Any]) -> list[tuple[str, str]]:
    """Id and title of the sections that the page has."""
    titles = {
        "graph": "Graph",
        "table": "Verdicts",
        "more": "Sweeps and ratings",
        "training": "Training",
        "answers": "Answers",
        "data": "Data",
        "checks": "Checks",
        "cost": "Cost",
        "licences": "Licences",
        "made": "Rebuild",
    }
    there = {
        "more": found["sweeps"] or found["ratings"],
        "answers": found["generations"],
        "data": found["datasets"],
    }
    return [(key, title) for key, title in titles.items() if there.get(key, True)]


if __name__ == "__main__":
    run(arguments(__doc__, context=str, cores=int, output=Path, figures=Path), main)
