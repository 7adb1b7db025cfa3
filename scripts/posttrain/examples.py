"""The examples of an evaluated model, and two models compared on them."""

import numpy as np

from posttrain.statistics import METRICS, Metric, comparison

Examples = dict[tuple[str, str], dict]
PARENTS = "preference_margin_accuracy"  # measured against the parent, so comparable only where the parent is the same


def read_examples(name: str) -> Examples:
    """A model's examples, by dataset and id."""
    import pyarrow.parquet as pq

    rows = pq.read_table(f"results/{name}/eval/examples.parquet").to_pylist()
    return {(row["dataset"], row["id"]): row for row in rows}


def having(metric: Metric, examples: list[dict]) -> list[dict]:
    """The examples that a metric is measured on."""
    return [example for example in examples if example.get(metric.columns[0]) is not None]


def columns(metric: Metric, examples: list[dict]) -> np.ndarray:
    """The numbers (columns, n) that a metric is computed from."""
    return np.array([[example[column] for example in examples] for column in metric.columns])


def comparisons(examples: list[dict], other: Examples, same_parent: bool = False) -> dict[str, dict]:
    """Every metric of a model compared with another's, on the same examples."""
    result = {}
    for name, metric in METRICS.items():
        ours = having(metric, examples)
        if ours and (same_parent or name != PARENTS):
            theirs = [other[example["dataset"], example["id"]] for example in ours]
            result[name] = comparison(metric, columns(metric, ours), columns(metric, theirs))
    return result
