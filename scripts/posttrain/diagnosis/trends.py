"""Statistics of a training curve: whether it has moved, where it jumps, how noisy it is; and its picture as a line of text."""

from typing import NamedTuple

import numpy as np
from scipy import stats
from scipy.ndimage import median_filter

CHANCE = 0.001  # a run is looked at by some thirty rules: at 5 % each, every healthy run would have a finding
MIN_STEPS = 12  # of a trend: four in each third, below which the noise of a third cannot be estimated
BLOCKS = " ▁▂▃▄▅▆▇█"
WIDTH = 32  # characters of a sparkline


class Shift(NamedTuple):
    """The change from the first third of a curve to its last third, with the interval that its own noise allows."""

    first: float
    last: float
    error: float
    """standard error of the change"""
    df: float

    @property
    def change(self) -> float:
        """Last third minus first third."""
        return self.last - self.first

    def bounds(self, chance: float = CHANCE) -> tuple[float, float]:
        """The interval of the change that misses the true one with a probability of `chance`."""
        reach = float(stats.t.ppf(1 - chance / 2, self.df)) * self.error
        return self.change - reach, self.change + reach

    def rises(self, chance: float = CHANCE) -> bool:
        """Whether the curve went up by more than chance."""
        return self.bounds(chance)[0] > 0

    def falls(self, chance: float = CHANCE) -> bool:
        """Whether the curve went down by more than chance."""
        return self.bounds(chance)[1] < 0


def thirds(values: list[float]) -> tuple[np.ndarray, np.ndarray]:
    """The first and the last third of a curve."""
    count = max(len(values) // 3, 1)
    return np.array(values[:count], float), np.array(values[-count:], float)


def shift(values: list[float]) -> Shift | None:
    """How far a curve moved; None where it is too short to tell.

    The noise of a third is what is left around a straight line through it, so that a trend does not count as noise. Neighbouring
    steps that deviate alike say less than independent ones: the error grows by sqrt((1 + r) / (1 - r)) with their correlation r.
    """
    if len(values) < MIN_STEPS:
        return None
    first, last = thirds(values)
    parts = [_noise(part) for part in (first, last)]
    error = float(np.sqrt(sum(one**2 for one in parts)))
    return Shift(float(first.mean()), float(last.mean()), max(error, 1e-12), 2 * len(first) - 4)


def _noise(part: np.ndarray) -> float:
    """The standard error of the mean of a part of a curve."""
    x = np.arange(len(part))
    residuals = part - np.polyval(np.polyfit(x, part, 1), x)
    variance = float((residuals**2).sum() / max(len(part) - 2, 1))
    if variance == 0:
        return 0.0
    together = float((residuals[1:] * residuals[:-1]).sum() / (residuals**2).sum())
    together = min(max(together, 0.0), 0.9)
    return float(np.sqrt(variance / len(part) * (1 + together) / (1 - together)))


def smooth(values: list[float], width: int) -> np.ndarray:
    """Means of `width` neighbours: (n - width + 1,)."""
    sums = np.cumsum(np.r_[0.0, values])
    return (sums[width:] - sums[:-width]) / width


def roughness(values: list[float]) -> float:
    """The noise of a smooth curve of few points, from how far each is off the middle of its neighbours (0 for fewer than 3)."""
    if len(values) < 3:
        return 0.0
    bends = np.abs(np.diff(values, 2))
    return float(np.median(bends)) / (0.6745 * np.sqrt(6))  # of normal noise s, a second difference has s sqrt(6)


def jumps(values: list[float], factor: float, window: int = 21) -> list[int]:
    """The places that are more than `factor` times the median of their neighbourhood."""
    array = np.array(values, float)
    medians = median_filter(array, size=window, mode="reflect")
    return [i for i, middle in enumerate(medians) if middle > 0 and array[i] > factor * middle]


def share_bounds(count: int, n: int) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson 1927)."""
    if not n:
        return 0.0, 1.0
    found = stats.binomtest(count, n).proportion_ci(method="wilson")
    return float(found.low), float(found.high)


# ---- pictures


def sparkline(values: list[float], width: int = WIDTH) -> str:
    """A curve as a line of blocks, from its lowest to its highest; of long ones the mean of each stretch."""
    finite = [value for value in values if np.isfinite(value)]
    if not finite:
        return ""
    parts = [float(np.mean(part)) for part in np.array_split(finite, min(width, len(finite)))]
    low, high = min(parts), max(parts)
    span = high - low
    return "".join(BLOCKS[1 + round((len(BLOCKS) - 2) * (part - low) / span)] if span else BLOCKS[1] for part in parts)


def picture(label: str, values: list[float], unit: str = "") -> str:
    """A curve with its name and its ends: `loss 2.41 █▆▃▁ 0.15`."""
    return f"{label} {short(values[0])}{unit} {sparkline(values)} {short(values[-1])}{unit}" if values else ""


def bar(label: str, share: float, width: int = 20) -> str:
    """A share as a bar: `ended ███████─────────── 35 %`."""
    full = round(share * width)
    return f"{label} {'█' * full}{'─' * (width - full)} {share:.0%}"


def short(value: float) -> str:
    """A number to three digits."""
    return f"{value:.3g}"
