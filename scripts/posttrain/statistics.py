"""Metrics with their uncertainty: percentile bootstrap over examples, paired where two models are compared.

An interval is the 2.5th to the 97.5th percentile of the metric over resamples of the examples (Efron 1979). A difference
is resampled with the same examples on both sides, and is called better or worse only when its interval leaves out zero.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

RESAMPLES = 2000
LEVEL = 0.95
FEWEST = 6  # below it no paired outcome is rarer than 5 % by chance (2 / 2^5), whatever the resamples say


class Metric(NamedTuple):
    """How a metric is computed from per-example columns (columns, n), and which way is better."""

    columns: tuple[str, ...]
    value: Callable[[np.ndarray], float]
    higher_is_better: bool
    share: bool
    """whether it is a mean of zeros and ones"""


def _mean(columns: np.ndarray) -> float:
    return float(columns[0].mean())


def _perplexity(columns: np.ndarray) -> float:
    log_prob, tokens = columns
    return float(np.exp(-log_prob.sum() / tokens.sum()))


METRICS = {
    "perplexity": Metric(("log_prob", "tokens"), _perplexity, higher_is_better=False, share=False),
    "preference_accuracy": Metric(("prefers_chosen",), _mean, higher_is_better=True, share=True),
    "preference_margin_accuracy": Metric(("margin_prefers_chosen",), _mean, higher_is_better=True, share=True),
    "reward_accuracy": Metric(("scores_chosen",), _mean, higher_is_better=True, share=True),
    "exact_match": Metric(("exact_match",), _mean, higher_is_better=True, share=True),
    "format_followed": Metric(("format_followed",), _mean, higher_is_better=True, share=True),
}


def summary(metric: Metric, columns: np.ndarray) -> dict[str, float]:
    """Value, 95% interval and n of a metric over examples, `columns` being (columns, n).

    A share of 0 or 1 has no bootstrap interval; it gets the exact binomial one (Clopper and Pearson 1934), as the
    resamples would claim certainty.
    """
    n = columns.shape[1]
    value = metric.value(columns)
    if metric.share and value in (0.0, 1.0):
        edge = ((1 - LEVEL) / 2) ** (1 / n)
        low, high = (0.0, 1 - edge) if value == 0.0 else (edge, 1.0)
    else:
        low, high = _percentiles([metric.value(columns[:, rows]) for rows in _resamples(n)])
    return {"value": value, "low": low, "high": high, "n": n}


def comparison(metric: Metric, ours: np.ndarray, theirs: np.ndarray) -> dict[str, float | str]:
    """Difference ours - theirs on the same n examples (both (columns, n)), its interval and the verdict."""
    differences = [metric.value(ours[:, rows]) - metric.value(theirs[:, rows]) for rows in _resamples(ours.shape[1])]
    low, high = _percentiles(differences)
    gain = (low, high) if metric.higher_is_better else (-high, -low)
    enough = ours.shape[1] >= FEWEST
    verdict = "better" if enough and gain[0] > 0 else "worse" if enough and gain[1] < 0 else "no evidence"
    return {"difference": metric.value(ours) - metric.value(theirs), "low": low, "high": high, "verdict": verdict}


def _resamples(n: int) -> np.ndarray:
    return np.random.default_rng(0).integers(n, size=(RESAMPLES, n))


def _percentiles(values: list[float]) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
