"""A sweep's page: the answer in sentences, every metric by setting, the costs, and how it was decided."""

from typing import Any

from posttrain.metrics.statistics import basis, verdict
from posttrain.reports import formatting, html, sweeps, work
from posttrain.reports.intervals import Axis, difference_axis, value_axis
from posttrain.reports.sweep_figures import varying
from posttrain.reports.sweep_sentences import answer, sentences
from posttrain.reports.sweeps import Sweep


def page(sweep: Sweep, figures: dict[str, str], cost_figures: list[str]) -> str:
    """The page.

    Args:
        figures: SVG by metric.
        cost_figures: SVG of metrics against costs.
    """
    return html.render(
        "sweep.html",
        sweep=sweep,
        several=max(len(setting.runs) for setting in sweep.settings) > 1,
        answer=[*answer(sweep), *sentences(sweep)],
        metrics=[_metric(sweep, name, figures[name]) for name in sweep.metrics],
        costs=_costs(sweep),
        cost_figures=cost_figures,
        trainings=sum(len(setting.runs) for setting in sweep.settings),
    )


def _costs(sweep: Sweep) -> list[dict[str, Any]]:
    names = varying(sweep)
    fronts = {
        name: sweeps.front(
            sweep.work, [row["value"] for row in sweep.values[name]], sweep.metrics[name].higher_is_better
        )
        for name in names
    }
    return [
        {
            "label": sweep.label(index),
            "work": work.amount(sweep.work[index], sweep.unit),
            "seconds": sweep.seconds[index],
            "memory": sweep.memory[index],
            "fronts": [name for name in names if index in fronts[name]],
            "runs": setting.runs,
        }
        for index, setting in enumerate(sweep.settings)
    ]


def _metric(sweep: Sweep, name: str, figure: str) -> dict[str, Any]:
    pairs = [(ours, theirs) for metric, theirs, ours in sweep.rows if metric == name]
    values = value_axis(name, sweep.values[name])
    found = [row for (metric, *_), row in sweep.rows.items() if metric == name]
    differences = difference_axis(name, found, sweep.metrics[name].higher_is_better)
    every_pair = pairs if len(pairs) > len(sweep.settings) - 1 else []
    return {
        "name": name,
        "compared": bool(pairs),
        "better": "higher" if sweep.metrics[name].higher_is_better else "lower",
        "examples": basis(sweep.values[name][0]),
        "ticks": values.ticks,
        "difference_ticks": differences.ticks,
        "figure": figure,
        "rows": [_row(sweep, name, index, values, differences) for index in range(len(sweep.settings))],
        "pairs": [
            {"label": f"{sweep.label(ours)} against {sweep.label(theirs)}"}
            | _difference(sweep, name, ours, theirs, differences)
            for ours, theirs in every_pair
        ],
    }


def _row(sweep: Sweep, name: str, index: int, values: Axis, differences: Axis) -> dict[str, Any]:
    row = sweep.values[name][index]
    return {
        "label": sweep.label(index),
        "value": formatting.value(name, row),
        "interval": formatting.interval(name, row),
        "bar": values.bar(row["value"], row["low"], row["high"]),
        "spread": _spread(name, row),
        "against": _difference(sweep, name, index, 0, differences) if (name, 0, index) in sweep.rows else None,
    }


def _spread(name: str, row: dict[str, Any]) -> str:
    """How far the trainings of a setting lie apart."""
    if row["sd"] is None:
        return "one training"
    least, most = (formatting.value(name, row | {"value": limit(row["trainings"])}) for limit in (min, max))
    return f"{least} to {most}"


def _difference(sweep: Sweep, name: str, ours: int, theirs: int, axis: Axis) -> dict[str, Any]:
    row = sweep.row(name, ours, theirs)
    size = row.get("detectable")
    return {
        "word": verdict(row),
        "difference": formatting.difference(name, row),
        "p": formatting.p_value(row["p"]),
        "detectable": "" if size is None else formatting.detectable(name, size),
        "overruled": sweep.touched(ours, theirs),
        "bar": axis.bar(row["difference"], row["low"], row["high"]),
    }
