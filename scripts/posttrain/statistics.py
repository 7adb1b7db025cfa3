"""The metrics, their 95% intervals, and the verdict where two models are compared on the same examples.

An interval is the 2.5th to the 97.5th percentile of the metric over resamples of the examples (Efron 1979). A difference
is resampled with the same examples on both sides. It is called better or worse when a test gives p < 5 %: McNemar's exact
one (1947) for right and wrong, else the resamples themselves. Where neither is said, the difference is given that so many
examples would have found. Several comparisons are corrected by Holm (1979).
"""

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy import stats

from posttrain import text_metrics

RESAMPLES = 2000
LEVEL = 0.95
POWER = 0.8  # with which the `detectable` difference is found
FEWEST = 6  # below it no paired outcome is rarer than 5 % by chance (2 / 2^5), whatever the resamples say


class Metric(NamedTuple):
    """How a metric is computed from per-example columns (columns, ..., n), and which way is better."""

    columns: tuple[str, ...]
    value: Callable[[np.ndarray], np.ndarray]
    higher_is_better: bool
    share: bool
    """whether it is a mean of zeros and ones"""


def _mean(columns: np.ndarray) -> np.ndarray:
    return columns[0].mean(axis=-1)


def _perplexity(columns: np.ndarray) -> np.ndarray:
    log_prob, tokens = columns
    return np.exp(-log_prob.sum(axis=-1) / tokens.sum(axis=-1))


def _metric(column: str, higher: bool = True, share: bool = True) -> Metric:
    return Metric((column,), _mean, higher, share)


METRICS = {
    "perplexity": Metric(("log_prob", "tokens"), _perplexity, higher_is_better=False, share=False),
    "byte_perplexity": Metric(("log_prob", "bytes"), _perplexity, higher_is_better=False, share=False),
    "word_perplexity": Metric(("log_prob", "words"), _perplexity, higher_is_better=False, share=False),
    "preference_accuracy": _metric("prefers_chosen"),
    "preference_margin_accuracy": _metric("margin_prefers_chosen"),
    "preference_margin": _metric("margin", share=False),
    "reward_accuracy": _metric("scores_chosen"),
    "exact_match": _metric("exact_match"),
    "exact_match_lenient": _metric("exact_match_lenient"),
    "format_followed": _metric("format_followed"),
    "final_number": _metric("final_number"),
    "answer_format": _metric("answer_format"),
    "regex": _metric("regex"),
    "json": _metric("json"),
    "bleu": Metric(("bleu",), text_metrics.corpus_bleu, higher_is_better=True, share=False),
    "chrf": Metric(("chrf",), text_metrics.corpus_chrf, higher_is_better=True, share=False),
    "rouge1": _metric("rouge1", share=False),
    "rouge2": _metric("rouge2", share=False),
    "rougeL": _metric("rougeL", share=False),
    "reward": _metric("reward", share=False),
    "refusal": _metric("refusal"),
    "over_refusal": _metric("over_refusal", higher=False),
    "toxicity": _metric("toxicity", higher=False),
    "unequal_treatment": _metric("unequal_treatment", higher=False),
}


def metric(name: str) -> Metric:
    """The metric of that name; one that is not ours, such as a task's `acc_norm`, is the mean of its column."""
    return METRICS.get(name) or _metric(name, share=name.startswith(("acc", "exact_match")))


def is_share(name: str) -> bool:
    """Whether a metric, by its name in eval.json, is the share of examples for which something holds."""
    return metric(name.split("/")[-1]).share


def shown(name: str, value: float) -> str:
    """A metric's value as people read it: a share in percent, anything else to about three digits."""
    if is_share(name):
        return f"{value:.0%}"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.2f}" if abs(value) >= 1 else f"{value:.2g}"


def summary(metric: Metric, columns: np.ndarray) -> dict[str, float]:
    """Value, 95% interval and n of a metric over examples, `columns` being (columns, n).

    A share of 0 or 1 has no bootstrap interval; it gets the exact binomial one (Clopper and Pearson 1934), as the
    resamples would claim certainty.
    """
    n = columns.shape[1]
    value = float(metric.value(columns))
    if metric.share and value in (0.0, 1.0):
        edge = ((1 - LEVEL) / 2) ** (1 / n)
        low, high = (0.0, 1 - edge) if value == 0.0 else (edge, 1.0)
    else:
        low, high = _percentiles(resampled(metric, columns), (1 - LEVEL) / 2)
    return {"value": value, "low": low, "high": high, "n": n}


def comparison(metric: Metric, ours: np.ndarray, theirs: np.ndarray) -> dict[str, float | str | None]:
    """Difference ours - theirs on the same n examples (both (columns, n)): its interval, p, the verdict.

    Without evidence there is `detectable`, the smallest true difference, either way, that n such examples show with a
    power of 80 %; null where they are too few to show any.
    """
    n = ours.shape[1]
    difference = float(metric.value(ours) - metric.value(theirs))
    resamples = resampled(metric, ours) - resampled(metric, theirs)
    low, high = _percentiles(resamples, _tail(n))
    p = mcnemar(ours[0], theirs[0]) if metric.share else bootstrap(resamples, n)
    row = {"difference": difference, "low": low, "high": high, "p": p}
    if p < 1 - LEVEL:
        return row | {"verdict": "better" if (difference > 0) == metric.higher_is_better else "worse"}
    if n < FEWEST:
        detectable = None
    elif metric.share:
        detectable = detectable_share(n, int((ours[0] != theirs[0]).sum()))
    else:
        detectable = detectable_mean(n, float(resamples.std()))
    return row | {"verdict": "no evidence", "detectable": detectable}


def mcnemar(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Two-sided p of McNemar's exact test (1947): of the examples that one alone got right, half should be ours."""
    wins, losses = int((ours > theirs).sum()), int((ours < theirs).sum())
    return float(stats.binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0


def bootstrap(resamples: np.ndarray, n: int) -> float:
    """Two-sided p of a difference of n examples from its resamples: twice the smaller share that is beyond zero.

    Below half a resample nothing is known, and below 2 / 2^n no outcome of n pairs is that rare. The share is widened
    as the interval is (`_tail`), so that p < 5 % where the interval leaves out zero.
    """
    share = min((resamples <= 0).mean(), (resamples >= 0).mean())
    z = stats.norm.ppf(min(max(share, 0.5 / RESAMPLES), 0.5))
    p = 2 * stats.t.cdf(z * np.sqrt((n - 1) / n), max(n - 1, 1))
    return float(max(p, 0.5 ** (n - 1)))


def detectable_share(n: int, discordant: int, level: float = 1 - LEVEL) -> float:
    """The difference of two shares that McNemar's test finds (p < `level`) on n examples with a power of 80 %.

    As many pairs are discordant as were seen, but one at least, and no fewer than the difference itself needs.
    """
    pairs = np.arange(n + 1)
    needed = stats.binom.isf(level / 2, pairs, 0.5) + 1  # wins of so many discordant pairs that make p < level

    def power(difference: float) -> float:
        share = max(discordant / n, 1 / n, difference)
        found = stats.binom.sf(needed - 1, pairs, (1 + difference / share) / 2)
        return float(stats.binom.pmf(pairs, n, share) @ found)

    low, high = 0.0, 1.0
    while high - low > 1e-4:
        middle = (low + high) / 2
        low, high = (low, middle) if power(middle) >= POWER else (middle, high)
    return high


def detectable_mean(n: int, error: float) -> float:
    """The difference that the bootstrap finds on n examples with a power of 80 %, from its standard error."""
    return float((stats.t.ppf((1 + LEVEL) / 2, n - 1) + stats.t.ppf(POWER, n - 1)) * error * np.sqrt(n / (n - 1)))


def holm(ps: list[float]) -> list[float]:
    """The p-values, corrected for their number (Holm 1979): under 5 % only where no chance finding among all is likelier."""
    order = np.argsort(ps)
    stepped = np.array(ps)[order] * np.arange(len(ps), 0, -1)
    corrected = np.empty(len(ps))
    corrected[order] = np.minimum(np.maximum.accumulate(stepped), 1.0)
    return corrected.tolist()


@lru_cache(maxsize=2)
def _resamples(n: int) -> np.ndarray:
    return np.random.default_rng(0).integers(n, size=(RESAMPLES, n))


def resampled(metric: Metric, columns: np.ndarray) -> np.ndarray:
    """The metric's value in each of RESAMPLES resamples of the examples, always the same ones for the same n."""
    blocks = np.split(_resamples(columns.shape[1]), 20)  # all at once, a large n would need gigabytes
    return np.concatenate([metric.value(columns.take(rows, axis=1)) for rows in blocks])


def _tail(n: int) -> float:
    """The percentile at which a difference's interval begins: below 2.5, as percentiles of few examples are too narrow.

    Without it, 20 examples raise 8 % false alarms (Hesterberg 2015, What teachers should know about the bootstrap).
    """
    return float(stats.norm.cdf(stats.t.ppf((1 - LEVEL) / 2, max(n - 1, 1)) * np.sqrt(n / max(n - 1, 1))))


def _percentiles(values: np.ndarray, tail: float) -> tuple[float, float]:
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)
