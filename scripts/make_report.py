"""Put everything that the runs left into one page for people, which needs no network, and its figures beside it.

Reads the context, and by the folders that it names each model's eval.json and eval/examples.parquet, each run's train.jsonl,
train.json, preflight.json, merge.json and provenance.json, and the data reports that exist. Writes the page, and two figures of each
run as PNG and SVG.

    python scripts/make_report.py --context results/context.json --cores 2 --output results/report.html \
        --figures results/figures
"""

import gc
import math
from functools import partial
from pathlib import Path
from typing import Any

from posttrain.reports import curves, figures, run_report
from posttrain.runtime.atomic import read_json, whole_file, whole_folder
from posttrain.runtime.console import say
from posttrain.runtime.errors import UserError
from posttrain.runtime.parallel import ordered_map
from posttrain.runtime.script import arguments, run


def main(options) -> None:
    context = read_json(options.context)
    if all(model["kind"] == "base" for model in context["models"]):
        raise UserError("missing-key", context["config"], "there are no runs to report on", "add one under runs:")
    report = run_report.collect(context)
    with whole_folder(options.figures) as folder:
        for _ in ordered_map(partial(draw, folder=folder), report["runs"], options.cores):
            pass
    text = run_report.page(report)
    with whole_file(options.output) as file:
        file.write_text(text, encoding="utf-8")
    say(
        f"report: {len(report['models'])} models, {len(text.encode()) / 2**20:.1f} MiB, see {options.output}", "summary"
    )


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
    gc.collect()  # a figure's objects refer to each other in cycles, and `ordered_map` runs without the garbage collector


if __name__ == "__main__":
    run(arguments(__doc__, context=Path, cores=int, output=Path, figures=Path), main)
