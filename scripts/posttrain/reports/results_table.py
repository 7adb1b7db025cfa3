"""Every metric of every model as a group of rows: value, interval, and the comparisons with the models that it comes from."""

from typing import Any

from posttrain.metrics.statistics import METRICS, metric, verdict
from posttrain.reports import formatting
from posttrain.reports.intervals import Axis, difference_axis, value_axis

Model = dict[str, Any]
Group = dict[str, Any]


def names(models: list[Model]) -> list[str]:
    """Every metric that a model has, the standard ones first."""
    found = list(dict.fromkeys(name for model in models for name in model["eval"]["metrics"]))
    return sorted(found, key=lambda name: list(METRICS).index(name) if name in METRICS else len(METRICS))


def groups(models: list[Model]) -> list[Group]:
    """A group a metric: its name, which way is better, the axes of its values and differences, a row a model."""
    return [_group(name, models) for name in names(models)]


def _group(name: str, models: list[Model]) -> Group:
    having = [model for model in models if name in model["eval"]["metrics"]]
    values = value_axis(name, [model["eval"]["metrics"][name] for model in having])
    higher = is_higher_better(name)
    found = [rows[name] for model in having for rows in model["eval"]["against"].values() if name in rows]
    differences = difference_axis(name, found, higher) if found else None
    return {
        "name": name,
        "better": "higher" if higher else "lower",
        "ticks": values.ticks,
        "difference_ticks": differences.ticks if differences else [],
        "rows": [_row(name, model, values, differences) for model in having],
    }


def is_higher_better(name: str) -> bool:
    """Whether more of a metric, by its name in eval.json, is better."""
    return metric(name.split("/")[-1]).higher_is_better


def _row(name: str, model: Model, values: Axis, differences: Axis | None) -> dict[str, Any]:
    row = model["eval"]["metrics"][name]
    against = {other: rows[name] for other, rows in model["eval"]["against"].items() if name in rows}
    return {
        "model": model["name"],
        "overruled": model["overruled"],
        "sort": row["value"],
        **measured(name, row, values),
        "against": [compared(name, model, other, row, differences) for other, row in against.items()],
    }


def measured(name: str, row: dict[str, Any], axis: Axis) -> dict[str, Any]:
    """A value as it is written and drawn."""
    return {
        "value": formatting.value(name, row),
        "interval": formatting.interval(name, row),
        "examples": formatting.examples(row),
        "bar": axis.bar(row["value"], row["low"], row["high"]),
    }


def compared(name: str, model: Model, other: str, row: dict[str, Any], axis: Axis) -> dict[str, Any]:
    """A comparison as it is written and drawn."""
    own = model["eval"]["metrics"][name]
    size = row.get("detectable")
    return {
        "metric": name,
        "other": other,
        "role": "parent" if other == model["parent"] else "base" if other == model["ancestors"][-1] else "",
        "word": verdict(row),
        "from": formatting.value(name, own | {"value": own["value"] - row["difference"]}),
        "to": formatting.value(name, own),
        "difference": formatting.difference(name, row),
        "examples": formatting.examples(own),
        "p": formatting.p_value(row["p"]),
        "detectable": "" if size is None else formatting.detectable(name, size),
        "bar": axis.bar(row["difference"], row["low"], row["high"]),
        "sort": row["difference"],
    }
