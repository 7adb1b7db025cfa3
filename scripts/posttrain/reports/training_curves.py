"""A run's curves as its page has them: thinned points for the script, and still pictures for paper and browsers without scripts."""

from typing import Any

from posttrain.reports import curves
from posttrain.reports.formatting import short
from posttrain.reports.intervals import round_numbers, tick_label

MAX_POINTS = 400  # of a curve on the page; fewer on a page of many runs, as all curves together get
CURVES_BYTES = 1_800_000
STILL_POINTS = 100  # of a curve's still picture
MIN_POINTS = 5  # of the longest curve of a panel; fewer are told in words, since they show no course
WIDTH, HEIGHT = 300, 110  # of a still picture's plot
ASIDE = ("learning rate", "gradient norm", "tokens per second", "utilisation", "memory")


def training(run: dict[str, Any], runs: int) -> dict[str, Any]:
    """A run's panels, its overfitting in words, and how many points a curve may have on a page of so many runs."""
    held_out = run["train"].get("held_out")
    panels = curves.panels(run["steps"], held_out)
    count = sum(len(panel.series) for panel in panels)
    most = min(MAX_POINTS, max(40, CURVES_BYTES // (14 * count * runs)))
    longest = max(len(series.x) for panel in panels for series in panel.series)
    drawn = [panel for panel in panels if max(len(series.x) for series in panel.series) >= MIN_POINTS]
    return {
        "name": run["name"],
        "overfits": curves.in_words(run["steps"], held_out),
        "turned": (curves.lowest(run["steps"]) or {"turned": False})["turned"],
        "panels": [_panel(panel, most) for panel in drawn if panel.title not in ASIDE],
        "aside": [_panel(panel, most) for panel in drawn if panel.title in ASIDE],
        "few": [(panel.title, _few(panel)) for panel in panels if panel not in drawn],
        "steps": run["train"]["steps"],
        "thinned": most if longest > most else None,
    }


def _few(panel: curves.Panel) -> str:
    """The points of a panel without enough for a curve: `training 0.69, 0.65; validation 0.71`."""
    unit = "%" if panel.unit == "%" else f" {panel.unit}" if panel.unit else ""
    parts = []
    for series in panel.series:
        values = ", ".join(f"{short(y)}{unit}" for y in series.y)
        parts.append(values if len(panel.series) == 1 else f"{series.label} {values}")
    return "; ".join(parts)


def _panel(panel: curves.Panel, most: int) -> dict[str, Any]:
    panel = panel._replace(series=[curves.thin(line, most) for line in panel.series])
    first, last = panel.series[0].y[0], panel.series[0].y[-1]
    return {
        "title": panel.title,
        "unit": panel.unit,
        "across": panel.across,
        "mark": panel.mark,
        "marked": panel.marked,
        "words": f"{short(first)} at first, {short(last)} at the end",
        "still": still(panel),
        "series": [
            {"label": line.label, "x": [_digits(x) for x in line.x], "y": [_digits(y) for y in line.y]}
            for line in panel.series
        ],
    }


def _digits(value: float) -> float:
    """Five significant digits, an integer as one."""
    rounded = float(f"{value:.5g}")
    return int(rounded) if rounded.is_integer() and abs(rounded) < 1e15 else rounded


def still(panel: curves.Panel) -> dict[str, Any]:
    """A panel as polylines in a box of 300 x 110 whose vertical axis goes from one round number to another."""
    series = [curves.thin(line, STILL_POINTS) for line in panel.series]
    xs, ys = [x for line in series for x in line.x], [y for line in series for y in line.y]
    left, right = min(xs), max(xs)
    heights = round_numbers(min(ys), max(ys), 3)
    low, high = heights[0], heights[-1]

    def place(x: float, y: float) -> tuple[int, int]:
        across = (x - left) / (right - left) if right > left else 0.5
        return round(WIDTH * across), round(HEIGHT * (1 - (y - low) / (high - low)))

    return {
        "lines": [" ".join(f"{x},{y}" for x, y in map(place, line.x, line.y)) for line in series],
        "dots": [
            [place(x, y) for x, y in zip(line.x, line.y, strict=True)] if len(line.x) < 12 else [] for line in series
        ],
        "left": short(left),
        "right": short(right),
        "heights": [(place(left, height)[1], tick_label("", height)) for height in heights],
        "mark": None if panel.mark is None else place(panel.mark, low)[0],
    }
