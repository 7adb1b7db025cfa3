"""A sweep as its points' files have it: settings with their metrics, their costs, and their verdicts against each other."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from posttrain.evaluation.example_scores import PARENTS, Examples, clusters, columns, key, measured, read_examples
from posttrain.metrics.paired import Measured, measure
from posttrain.reports import overruled, sweeps, work
from posttrain.reports.sweeps import Setting, Sweep
from posttrain.runtime.atomic import read_json
from posttrain.workflow import paths

OF_PARENT = (*PARENTS, "win_rate")  # comparable only where the parent is the same

Points = list[tuple[str, dict[str, Any]]]


def read(name: str, points: Points) -> Sweep:
    """The sweep of points, each a run and its overrides."""
    settings = sweeps.settings(points)
    folders = {run: Path(paths.of(run)) for run, _ in points}
    results = {run: read_json(folder / "eval.json")["metrics"] for run, folder in folders.items()}
    training = {run: read_json(folder / "train.json") for run, folder in folders.items()}
    parents = {read_json(folder / "spec.json")["from"]["name"] for folder in folders.values()}
    metrics, trainings = _measure(settings, results)
    values = {
        metric: [
            sweeps.summary(metrics[metric], own, results[setting.runs[0]][metric])
            for setting, own in zip(settings, trainings[metric], strict=True)
        ]
        for metric in metrics
    }
    comparable = {
        metric: own for metric, own in trainings.items() if len(parents) == 1 or metric.split("/")[-1] not in OF_PARENT
    }
    each, unit = work.of_each(list(folders))
    return Sweep(
        name,
        settings,
        metrics,
        values,
        sweeps.compare_all(metrics, comparable),
        work=[float(np.mean([each[run] for run in setting.runs])) for setting in settings],
        seconds=[float(np.mean([training[run]["seconds"] for run in setting.runs])) for setting in settings],
        memory=[max(training[run]["memory_gib"] for run in setting.runs) for setting in settings],
        unit=unit,
        overruled=tuple(tuple(overruled.of(*setting.runs)) for setting in settings),
    )


def _measure(settings: list[Setting], results: dict[str, dict]) -> tuple[dict, dict[str, list[Measured]]]:
    """The metrics that every point has, and each of them for every setting, on the same examples in the same order."""
    examples = {run: _examples(run) for run in results}
    first = list(next(iter(examples.values())).values())
    metrics, found = {}, {}
    for name, metric, rows in measured(first):
        if not all(name in result for result in results.values()):
            continue
        keys = [key(row) for row in rows]
        metrics[name] = metric
        found[name] = [
            measure(
                metric,
                [columns(metric, [examples[run][at] for at in keys]) for run in setting.runs],
                clusters(rows),
            )
            for setting in settings
        ]
    return metrics, found


def _examples(run: str) -> Examples:
    """The examples of a run; those that a judge has compared with another model's have a `win_rate` as well."""
    examples, file = read_examples(Path(paths.examples(run))), Path(paths.verdicts(run))
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else ():
        row = json.loads(line)
        if key(row) in examples:  # a judge that the configuration has no more may have left others
            examples[key(row)]["win_rate"] = row["win"]
    return examples
