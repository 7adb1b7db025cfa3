"""Intervals as small bars: a common axis for values of one metric, one around zero for differences, places in percent of it."""

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

from posttrain.metrics.statistics import is_share
from posttrain.reports.formatting import MINUS

Row = dict[str, Any]
LABELS = 3  # numbers below an axis


class Axis(NamedTuple):
    """An axis from `left` to `right`, where `right` may be the smaller end."""

    left: float
    right: float
    ticks: list[tuple[float, str]]
    """place in percent, and label"""

    def place(self, value: float) -> float:
        """Where a value stands, in percent of the axis."""
        return round(min(100.0, max(0.0, 100 * (value - self.left) / (self.right - self.left))), 2)

    def bar(self, at: float, low: float, high: float) -> dict[str, float] | None:
        """The places of a value and of its interval's ends; None of numbers that are not finite."""
        if not all(map(math.isfinite, (at, low, high))):
            return None
        ends = sorted((self.place(low), self.place(high)))
        return {"at": self.place(at), "low": ends[0], "high": ends[1]}


def value_axis(name: str, rows: Iterable[Row]) -> Axis:
    """The axis on which all values of a metric are drawn, from one round number to another."""
    ends = [end for row in rows for end in (row["low"], row["value"], row["high"]) if math.isfinite(end)] or [0.0]
    ticks = round_numbers(min(ends), max(ends), LABELS)
    if is_share(name):
        ticks = [tick for tick in ticks if -1e-9 <= tick <= 1 + 1e-9]
    return _axis(name, ticks)


def difference_axis(name: str, rows: Iterable[Row], higher_is_better: bool) -> Axis:
    """The axis on which all differences of a metric are drawn: zero is in the middle, better is on the right."""
    ends = [abs(end) for row in rows for end in (row["low"], row["difference"], row["high"]) if math.isfinite(end)]
    most = round_numbers(0, max(ends, default=0.0) or (0.1 if is_share(name) else 1.0), 1)[-1]
    ticks = [-most, 0.0, most] if higher_is_better else [most, 0.0, -most]
    return _axis(name, ticks, sign="+")


def round_numbers(low: float, high: float, count: int) -> list[float]:
    """About `count` + 1 round numbers at equal distances, the first at or below `low`, the last at or above `high`."""
    from matplotlib.ticker import MaxNLocator

    if low == high:
        low, high = (0.0, 1.0) if not low else sorted((low, 2 * low))
    return MaxNLocator(nbins=count, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high).tolist()


def _axis(name: str, ticks: list[float], sign: str = "") -> Axis:
    axis = Axis(ticks[0], ticks[-1], [])
    shown = ticks if len(ticks) <= LABELS else [ticks[0], ticks[-1]]
    return axis._replace(ticks=[(axis.place(tick), tick_label(name, tick, sign)) for tick in shown])


def tick_label(name: str, value: float, sign: str = "") -> str:
    """A number at an axis: `50%`, `+20`, `-0.5`."""
    share = is_share(name)
    text = f"{100 * value if share else value:{sign if value else ''}.6g}".replace("-", MINUS)
    return f"{text}%" if share and not sign else text
