"""The examples of an evaluated model, and two models compared on them."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from posttrain.data.dataset_types import MEDIA
from posttrain.metrics.paired import comparison
from posttrain.metrics.statistics import METRICS, Metric, metric

Examples = dict[tuple[str, str, str], dict]
TEXTS = ("suite", "dataset", "part", "id", "group", "prompt_group", "prompt", "reference", "output")
SOMETIMES = ("failed", *MEDIA)  # texts, or names of files, that a file has a column for only where an example has one
PARENTS = ("preference_margin_accuracy", "preference_margin")  # comparable only where the parent is the same
# What no metric of its own is computed from.
PARTS = {column for found in METRICS.values() for column in found.columns} - METRICS.keys() | {
    "chosen_log_prob",
    "rejected_log_prob",
    "chosen_score",
    "rejected_score",
}


def read_examples(file: Path) -> Examples:
    """The examples of a model's examples.parquet, by suite, dataset and id."""
    import pyarrow.parquet as pq

    rows = pq.read_table(file).to_pylist()
    return {key(row): row for row in rows}


def key(example: dict) -> tuple[str, str, str]:
    """What an example is called among all of a model's."""
    return example["suite"], example["dataset"], example["id"]


def measured(examples: list[dict]) -> Iterator[tuple[str, Metric, list[dict]]]:
    """Every metric that the examples hold, suite by suite: its name in eval.json, itself, and the examples that have it."""
    suites: dict[str, list[dict]] = {}
    for example in examples:
        suites.setdefault(example["suite"], []).append(example)
    for suite, rows in suites.items():
        present = {column: None for row in rows for column, value in row.items() if value is not None}
        known = [name for name, found in METRICS.items() if set(found.columns) <= present.keys()]
        own = [column for column in present if column not in {*TEXTS, *SOMETIMES, *PARTS, *METRICS}]
        for name in [*known, *own]:
            found = metric(name)
            having = [row for row in rows if row.get(found.columns[0]) is not None]
            if name not in METRICS and found.share and any(row[name] not in (0, 1) for row in having):
                found = found._replace(share=False)  # a metric of the user's, called as lm-eval calls shares
            yield f"{suite}/{name}" if suite else name, found, having


def by_origin(examples: list[dict]) -> dict[str, dict[str, list[dict]]]:
    """The examples of every dataset, and, of a mixture, of every part: by dataset, then by part, `` for all of them."""
    found: dict[str, dict[str, list[dict]]] = {}
    for example in examples:
        parts = found.setdefault(example["dataset"], {})
        for part in dict.fromkeys(("", example.get("part") or "")):
            parts.setdefault(part, []).append(example)
    return found


def columns(metric: Metric, examples: list[dict]) -> np.ndarray:
    """The numbers (columns, n) that a metric is computed from; a column of lists of k numbers counts as k."""
    values = [np.array([example[column] for example in examples], dtype=float) for column in metric.columns]
    return np.concatenate([np.atleast_2d(column.T) for column in values])


def clusters(examples: list[dict]) -> np.ndarray | None:
    """Which of the examples share a prompt (n,), by `prompt_group`; None where no two do. One without is on its own."""
    names = [example.get("prompt_group") or key(example) for example in examples]
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return np.array([numbers[name] for name in names]) if len(numbers) < len(names) else None


def comparisons(examples: list[dict], other: Examples, same_parent: bool = False) -> dict[str, dict]:
    """Every metric of a model compared with another's, on the same examples."""
    result = {}
    for name, found, ours in measured(examples):
        if same_parent or name.split("/")[-1] not in PARENTS:
            # What only some episodes have, such as an error to recover from, is compared where both models have it.
            ours = [one for one in ours if all(other[key(one)].get(part) is not None for part in found.columns)]
            if not ours:
                continue
            theirs = [other[key(example)] for example in ours]
            result[name] = comparison(found, columns(found, ours), columns(found, theirs), clusters(ours))
    return result
