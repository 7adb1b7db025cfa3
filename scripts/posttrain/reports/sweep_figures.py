"""The figures of a sweep: a metric against what was swept, and against what it cost."""

from pathlib import Path
from typing import Any

import numpy as np

from posttrain.metrics.statistics import is_share
from posttrain.reports import figures, sweeps, work
from posttrain.reports.sweeps import Sweep

# ---- along what was swept


def draw_metric(stem: Path, sweep: Sweep, name: str) -> str:
    """A metric against the swept value, with intervals and the single trainings; returns the SVG for the page."""
    pyplot = figures.pyplot()
    figure, axis = pyplot.subplots(figsize=(4.6, 2.9))
    if not sweep.keys:
        _draw_seeds(axis, sweep, name)
    else:
        _draw_settings(axis, sweep, name)
    axis.set_title(name, loc="left")
    axis.set_ylabel("higher is better" if sweep.metrics[name].higher_is_better else "lower is better")
    in_percent(axis, name)
    return figures.save(figure, stem, f"{name} of every setting with its 95 % interval")


def _draw_seeds(axis: Any, sweep: Sweep, name: str) -> None:
    own = sweep.values[name][0]
    for place, value in enumerate(own["trainings"]):
        axis.plot(place, value, "o")
    axis.axhspan(own["low"], own["high"], alpha=0.12)
    axis.set_xticks(range(len(own["trainings"])), [sweeps.text(seed) for seed in sweep.settings[0].seeds])
    axis.set_xlabel("seed")


def _draw_settings(axis: Any, sweep: Sweep, name: str) -> None:
    along, across = layout(sweep)
    places, scale = positions(sweep, along)
    lines: dict[str, list[int]] = {}
    for index, setting in enumerate(sweep.settings):
        lines.setdefault(sweeps.text(setting.overrides.get(across, "")) if across else "", []).append(index)
    for number, (title, members) in enumerate(lines.items()):
        members.sort(key=places.__getitem__)
        own = [sweep.values[name][index] for index in members]
        at = [places[index] for index in members]
        shift = _aside(axis, 5 * (number - (len(lines) - 1) / 2))
        values, low, high = ([row[part] for row in own] for part in ("value", "low", "high"))
        colour = figures.COLOURS[number % len(figures.COLOURS)]
        style = "-" if scale != "categories" or across else ""
        axis.plot(at, values, style, color=colour, alpha=0.35, transform=shift)
        axis.vlines(at, low, high, color=colour, transform=shift)
        axis.plot(at, values, "o", color=colour, transform=shift, label=f"{across} {title}")
        dots = [
            (place, value)
            for place, row in zip(at, own, strict=True)
            for value in row["trainings"]
            if row["sd"] is not None
        ]
        if dots:
            axis.plot(*zip(*dots, strict=True), "_", color=colour, alpha=0.8, transform=shift)
    _finish(axis, sweep, along, places, scale)
    lows, highs = ([row[part] for row in sweep.values[name]] for part in ("low", "high"))
    room = 0.08 * (max(highs) - min(lows)) or 0.05  # what is drawn aside does not count in the limits
    axis.set_ylim(min(lows) - room, max(highs) + room)
    if across:
        axis.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))


def _aside(axis: Any, points: float) -> Any:
    """Where the data are, a few points to the side, so that intervals at the same place are seen."""
    from matplotlib.transforms import ScaledTranslation

    return axis.transData + ScaledTranslation(points / 72, 0, axis.figure.dpi_scale_trans)


def _finish(axis: Any, sweep: Sweep, along: str | None, places: list[float], scale: str) -> None:
    if scale == "categories":
        names = {place: sweep.label(index) for index, place in enumerate(places)}
        if along:
            names = {place: sweeps.text(sweep.settings[i].overrides.get(along, "")) for i, place in enumerate(places)}
        crowded = sum(map(len, names.values())) > 40
        axis.set_xticks(list(names), names.values(), rotation=30 if crowded else 0, ha="right" if crowded else "center")
        axis.set_xlim(min(places) - 0.5, max(places) + 0.5)
    else:
        axis.set_xscale(scale)
        ticks = sorted(set(places))
        axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axis.minorticks_off()
        low, high = ticks[0], ticks[-1]
        room = (high / low) ** 0.12 if scale == "log" else 0.12 * (high - low)
        axis.set_xlim((low / room, high * room) if scale == "log" else (low - room, high + room))
    axis.set_xlabel(along or "")


def layout(sweep: Sweep) -> tuple[str | None, str | None]:
    """The key along the axis, and the one whose values are lines; without either every setting stands on its own."""
    if len(sweep.keys) == 1:
        return sweep.keys[0], None
    if len(sweep.keys) > 2:
        return None, None

    def most_values(name: str) -> tuple:
        values = {setting.overrides.get(name) for setting in sweep.settings}
        return all(sweeps.number(value) is not None for value in values), len(values)

    along = max(sweep.keys, key=most_values)
    (across,) = set(sweep.keys) - {along}
    lines = {sweeps.text(setting.overrides.get(across, "")) for setting in sweep.settings}
    return (along, across) if len(lines) < len(sweep.settings) else (None, None)


def positions(sweep: Sweep, along: str | None) -> tuple[list[float], str]:
    """Where every setting stands on the axis, and the axis: linear, log or categories."""
    if along is None:
        return list(range(len(sweep.settings))), "categories"
    values = [setting.overrides.get(along) for setting in sweep.settings]
    numbers = [sweeps.number(value) for value in values]
    if None in numbers:
        order = list(dict.fromkeys(map(sweeps.text, values)))
        return [order.index(sweeps.text(value)) for value in values], "categories"
    return numbers, axis_scale(numbers)


def axis_scale(numbers: list[float]) -> str:
    """`log` where the values span a decade or more and their ratios are more even than their differences."""
    ordered = np.unique(numbers)
    if len(ordered) < 2 or ordered[0] <= 0 or ordered[-1] < 10 * ordered[0]:
        return "linear"
    largest = [np.diff(scaled).max() / (scaled[-1] - scaled[0]) for scaled in (ordered, np.log(ordered))]
    return "log" if largest[1] < largest[0] else "linear"


# ---- against cost


def draw_cost(stem: Path, sweep: Sweep, cost: str) -> str:
    """Every metric against a cost (`work` or `memory`), the Pareto front drawn as a line and named; returns the SVG for the page."""
    pyplot = figures.pyplot()
    names = varying(sweep)
    figure, axes = pyplot.subplots(len(names), figsize=(4.6, 2.5 * len(names)), squeeze=False)
    costs, unit = sweep.memory, "GiB"
    if cost == "work":
        divisor, unit = work.scale(max(sweep.work), sweep.unit)
        costs = [amount / divisor for amount in sweep.work]
    what = {"work": f"work of training, {unit}", "memory": f"peak memory, {unit}"}[cost]
    for axis, name in zip(axes[:, 0], names, strict=True):
        values = [row["value"] for row in sweep.values[name]]
        best = sweeps.front(costs, values, sweep.metrics[name].higher_is_better)
        axis.plot(costs, values, "o", color=figures.COLOURS[5], markerfacecolor="none")
        axis.plot([costs[i] for i in best], [values[i] for i in best], "o-", color=figures.COLOURS[0])
        axis.margins(x=0.3, y=0.3)
        axis.locator_params(nbins=5)
        axis.set_ylabel(name)
        in_percent(axis, name)
        names: dict[tuple[float, float], list[str]] = {}
        for index in best:
            names.setdefault((costs[index], values[index]), []).append(values_of(sweep, index))
        name_points(axis, [(x, y, "\n".join(own)) for (x, y), own in names.items()])
    keys = f"; points: {', '.join(sweep.keys)}" if sweep.keys else ""
    axes[-1, 0].set_xlabel(f"{what}{keys}")
    return figures.save(figure, stem, f"Metrics against {what}; the Pareto front is a line with names")


def values_of(sweep: Sweep, index: int) -> str:
    """A setting by its values alone: `16, lora`; the axis says of which keys."""
    overrides = sweep.settings[index].overrides
    return ", ".join(sweeps.text(overrides.get(key, "as configured")) for key in sweep.keys) or sweep.label(index)


def name_points(axis: Any, points: list[tuple[float, float, str]]) -> None:
    """Write a name beside each point (x, y, name), on the side where their line is not, where it covers no other and stays inside.

    A name that finds no room is left out; the table has it.
    """
    axis.autoscale_view()  # places are known only then
    rises = points[-1][1] > points[0][1]
    renderer = axis.figure.canvas.get_renderer()
    inside = axis.get_window_extent(renderer)
    placed: list[Any] = []
    for x, y, name in points:
        for up in (5, 13, 21, 29, -9, -17, -25):
            text = axis.annotate(
                name, (x, y), xytext=(-6 if rises else 6, up), textcoords="offset points", ha="right" if rises else "left",
                va="bottom", fontsize=8,
            )  # fmt: skip
            box = text.get_window_extent(renderer)
            if inside.y0 <= box.y0 and box.y1 <= inside.y1 and not any(box.overlaps(other) for other in placed):
                placed.append(box)
                break
            text.remove()


def in_percent(axis: Any, name: str) -> None:
    """Write the values of a share in percent, as pages and tables do."""
    from matplotlib.ticker import PercentFormatter

    if is_share(name):
        axis.yaxis.set_major_formatter(PercentFormatter(1.0))


def varying(sweep: Sweep) -> list[str]:
    """The metrics in which the settings differ at all; the first where none does."""
    names = [name for name, rows in sweep.values.items() if len({row["value"] for row in rows}) > 1]
    return names or list(sweep.metrics)[:1]
