"""The curves of a training stage: what train.jsonl holds, in panels, thinned for a page, and where overfitting began."""

import itertools
import json
import math
from pathlib import Path
from typing import Any, NamedTuple

from posttrain.reports.figures import COLOURS
from posttrain.reports.formatting import percent
from posttrain.training import early_stopping

VALIDATION = "eval_"
NOT_DRAWN = {"step", "seconds", "epoch", "num_tokens"}
BY_MINUTES = ("tokens_per_second", "cpu_percent", "gpu_percent", "memory_gib")  # of the machine, so by its clock
SHARED_PANELS = {"cpu_percent": "utilisation", "gpu_percent": "utilisation"}
TITLES = {
    "learning_rate": "learning rate",
    "grad_norm": "gradient norm",
    "tokens_per_second": "tokens per second",
    "memory_gib": "memory",
    "completions/mean_length": "tokens per completion",
    "completions/clipped_ratio": "truncated completions",
    "clip_ratio/region_mean": "clipped ratios",
    "cispo_clip_ratio": "clipped ratios",
}
SHARES = (  # shown in percent
    "accuracy", "mean_token_accuracy", "rewards/accuracies", "clip_fraction", "completions/clipped_ratio", "clip_ratio/region_mean",
    "cispo_clip_ratio",
)  # fmt: skip
UNITS = {"utilisation": "%", "memory": "GiB"} | {TITLES.get(key, key.replace("_", " ")): "%" for key in SHARES}
FIRST = ("loss", "learning rate", "gradient norm", "tokens per second", "utilisation", "memory")
MIN_RISE = 0.01  # a validation loss that ends less than this above its minimum has not turned: it is level


class Series(NamedTuple):
    """One line of a panel; x are steps or minutes."""

    label: str
    x: list[float]
    y: list[float]


class Panel(NamedTuple):
    """Curves that share an axis."""

    title: str
    unit: str
    across: str
    """what x is: "step" or "minutes" """
    series: list[Series]
    mark: float | None
    """the step of the lowest validation loss, on the panel of the loss, or the one that was kept, on that of what it was kept for"""
    marked: str = "lowest validation loss"
    """what the mark stands for"""


def read(file: Path) -> list[dict[str, Any]]:
    """The lines of a train.jsonl."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def panels(lines: list[dict[str, Any]], held_out: dict[str, Any] | None = None) -> list[Panel]:
    """Every number of the lines against the step, what the machine did against minutes; the loss first.

    Chosen and rejected of the same measure share a panel, and so do training and validation.

    Args:
        held_out: what train.json says of the measurements by which a step was kept, where there were any.
    """
    timed = any("seconds" in line for line in lines)
    marks = _marks(lines, held_out)
    found: dict[str, Panel] = {}
    keys = dict.fromkeys(key for line in lines for key in line if key not in NOT_DRAWN)
    for key in keys:
        title, label = _names(key, VALIDATION + key in keys)
        across = "minutes" if timed and key in BY_MINUTES else "step"
        x, y = points(lines, key, across)
        percent = key.removeprefix(VALIDATION) in SHARES
        series = Series(label, x, [100 * value for value in y] if percent else y)
        if series.x:
            panel = Panel(title, UNITS.get(title, ""), across, [], *marks.get(title, (None,)))
            found.setdefault(title, panel).series.append(series)
    return sorted(found.values(), key=lambda panel: FIRST.index(panel.title) if panel.title in FIRST else len(FIRST))


def _marks(lines: list[dict[str, Any]], held_out: dict[str, Any] | None) -> dict[str, tuple[float, str]]:
    """Step and meaning of the mark of a panel, by its title."""
    turned = lowest(lines)
    marks = {"loss": (turned["step"], "lowest validation loss")} if turned else {}
    return marks | ({_names(held_out["logged"], True)[0]: (held_out["kept_step"], "kept")} if held_out else {})


def points(lines: list[dict[str, Any]], key: str, across: str = "step") -> tuple[list[float], list[float]]:
    """x and y of a key, where it is a finite number; the minutes are those since the stage began to train."""
    found = [(line["step"] if across == "step" else line.get("seconds"), line.get(key)) for line in lines]
    kept = [(x, y) for x, y in found if isinstance(y, int | float) and math.isfinite(y) and x is not None]
    scale = 60 if across == "minutes" else 1
    return [x / scale if scale > 1 else x for x, _ in kept], [y for _, y in kept]


def _names(key: str, validated: bool) -> tuple[str, str]:
    """The panel that a key's curve is in, and the curve's label."""
    own = key.removeprefix(VALIDATION)
    measure, _, side = own.rpartition("/")
    if side in ("chosen", "rejected"):
        return measure, side if own == key else f"{side}, validation"
    if own in SHARED_PANELS:
        return SHARED_PANELS[own], own.removesuffix("_percent").upper()
    title = TITLES.get(own, own.replace("_", " "))
    return title, "validation" if own != key else "training" if validated else title


def thin(series: Series, most: int) -> Series:
    """At most that many points: both ends, and the lowest and the highest of equal stretches, so that no spike is lost."""
    n, stretches = len(series.x), (most - 2) // 2
    if n <= most:
        return series
    kept = {0, n - 1}
    for start, end in itertools.pairwise(round(i * n / stretches) for i in range(stretches + 1)):
        kept |= {min(range(start, end), key=series.y.__getitem__), max(range(start, end), key=series.y.__getitem__)}
    rows = sorted(kept)
    return Series(series.label, [series.x[i] for i in rows], [series.y[i] for i in rows])


# ---- overfitting


def lowest(lines: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Where the validation loss was lowest, and whether it rose after: `step`, `loss`, `last`, `turned`; None without any.

    It has turned, and the run overfits from there, where the last validation loss is more than 1 % above the lowest.
    """
    steps, losses = points(lines, "eval_loss")
    if not steps:
        return None
    at = min(range(len(losses)), key=losses.__getitem__)
    turned = losses[-1] - losses[at] > MIN_RISE * abs(losses[at])
    return {
        "step": steps[at],
        "loss": losses[at],
        "last": losses[-1],
        "end": steps[-1],
        "n": len(steps),
        "turned": turned,
    }


def in_words(lines: list[dict[str, Any]], held_out: dict[str, Any] | None = None) -> str:
    """What was measured on held-out rows and kept, and whether a run overfits, as sentences; `held_out` as in `panels`."""
    kept = early_stopping.in_words(held_out)
    return f"{kept} {_overfitting(lines)}".strip() if lowest(lines) or not kept else kept


def _overfitting(lines: list[dict[str, Any]]) -> str:
    found = lowest(lines)
    if found is None:
        return "No validation loss was measured during training, so overfitting cannot be seen."
    at = f"at step {found['step']:,} ({found['loss']:.3g})"
    if found["n"] == 1:
        return f"Validation loss was measured once, {at}: whether it turned cannot be seen."
    if found["turned"]:
        rise = (found["last"] - found["loss"]) / abs(found["loss"])
        return (
            f"Overfits from step {found['step']:,} on: validation loss was lowest there ({found['loss']:.3g}) and rose to "
            f"{found['last']:.3g} by step {found['end']:,}, {percent(rise)} more."
        )
    if found["step"] == found["end"]:
        return f"No overfitting seen: validation loss was lowest at its last measurement, {at}."
    return f"No overfitting seen: validation loss was lowest {at} and ended within 1% of that ({found['last']:.3g})."


# ---- figures


def draw(axis: Any, panel: Panel) -> None:
    """Draw a panel on a matplotlib axis, the lowest validation loss marked."""
    for series in panel.series:
        marker = "o" if "validation" in series.label else "." if len(series.x) < 50 else ""
        axis.plot(series.x, series.y, marker=marker, markersize=3, linewidth=1.2, label=series.label)
    if panel.mark is not None:
        axis.axvline(panel.mark, linestyle="--", linewidth=0.8, color=COLOURS[-1], label=panel.marked)
    if len(panel.series) > 1 or panel.mark is not None:
        axis.legend(fontsize=8, loc="upper right")
    axis.set(title=panel.title, xlabel=panel.across, ylabel=panel.unit)
    axis.locator_params(nbins=5)  # ticks are what takes the time
    if panel.across == "step":
        axis.xaxis.get_major_locator().set_params(integer=True)
