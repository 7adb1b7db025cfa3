"""The metrics, their 95% intervals, and what so many examples can show; two models are compared in `paired`.

An interval is the 2.5th to the 97.5th percentile of the metric over resamples of the examples (Efron 1979), and of a share
the exact binomial one (Clopper and Pearson 1934). Examples that share a prompt are not independent: they are resampled
together, and a share counts for as many examples as its clusters are worth (Korn and Graubard 1998). Several comparisons are
corrected by Holm (1979).
"""

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy import stats

from posttrain.metrics import error_rates, text_metrics

RESAMPLES, BLOCKS = 2000, 20  # all at once, a large n would need gigabytes
LEVEL = 0.95
SAME = "the same in every example"  # where there is no difference that could have been shown
TOO_FEW = "too few examples"
VERDICTS = ("better", "worse", "no evidence", TOO_FEW)  # as pages and tables say them
POWER = 0.8  # with which the `detectable` difference is found
# Clusters of examples below which there is no verdict, on any page: six of six could be chance once in 32 times, and among a
# sweep's comparisons say nothing, while ten of ten (1 in 512) stand the correction of 25.
FEWEST = 10


class Metric(NamedTuple):
    """How a metric is computed from sums of per-example columns, and which way is better."""

    columns: tuple[str, ...]
    value: Callable[[np.ndarray, np.ndarray], np.ndarray]
    """of sums over examples (columns, ...) and the numbers of examples (...)"""
    higher_is_better: bool
    share: bool
    """whether it is a mean of zeros and ones, and of halves where a tie counts half"""

    def of(self, columns: np.ndarray) -> float:
        """Its value over the examples whose columns (columns, n) these are."""
        return float(self.value(columns.sum(axis=-1), np.array(columns.shape[-1])))


def _mean(sums: np.ndarray, n: np.ndarray) -> np.ndarray:
    return sums[0] / n


def _perplexity(sums: np.ndarray, n: np.ndarray) -> np.ndarray:
    log_prob, count = sums
    return np.exp(-log_prob / count)


def _macro_f1(sums: np.ndarray, n: np.ndarray) -> np.ndarray:
    """The mean over the classes of F1 = 2 tp / (2 tp + fp + fn); a class that is neither there nor predicted is left out.

    Args:
        sums: (3 x classes, ...) true positives, false positives and false negatives of each class, one class after the other.
    """
    right, wrong, missed = (sums[part::3] for part in range(3))
    there = (right + wrong + missed) > 0
    f1 = 2 * right / np.where(there, 2 * right + wrong + missed, 1)
    return f1.sum(axis=0) / np.maximum(there.sum(axis=0), 1)


def _of_counts(score: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """A corpus metric, which adds up its examples' counts itself."""
    return lambda sums, n: score(sums[..., None])


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
    "class_accuracy": _metric("right_class"),
    "class_macro_f1": Metric(("confusion",), _macro_f1, higher_is_better=True, share=False),
    "exact_match": _metric("exact_match"),
    "exact_match_lenient": _metric("exact_match_lenient"),
    "format_followed": _metric("format_followed"),
    "final_number": _metric("final_number"),
    "answer_format": _metric("answer_format"),
    "regex": _metric("regex"),
    "json": _metric("json"),
    "json_equal": _metric("json_equal"),
    "tool_name": _metric("tool_name"),
    "tool_arguments": _metric("tool_arguments"),
    "tool_arguments_f1": _metric("tool_arguments_f1", share=False),
    "no_call": _metric("no_call"),
    "parallel_calls": _metric("parallel_calls"),
    "error_recovery": _metric("error_recovery"),
    "bleu": Metric(("bleu",), _of_counts(text_metrics.corpus_bleu), higher_is_better=True, share=False),
    "chrf": Metric(("chrf",), _of_counts(text_metrics.corpus_chrf), higher_is_better=True, share=False),
    "wer": Metric(("wer",), _of_counts(error_rates.corpus_error_rate), higher_is_better=False, share=False),
    "cer": Metric(("cer",), _of_counts(error_rates.corpus_error_rate), higher_is_better=False, share=False),
    "rouge1": _metric("rouge1", share=False),
    "rouge2": _metric("rouge2", share=False),
    "rougeL": _metric("rougeL", share=False),
    "vqa": _metric("vqa"),
    "anls": _metric("anls", share=False),
    "cider": _metric("cider", share=False),
    "reward": _metric("reward", share=False),
    "environment_success": _metric("environment_success"),
    "environment_reward": _metric("environment_reward", share=False),
    "environment_turns": _metric("environment_turns", higher=False, share=False),
    "environment_errors": _metric("environment_errors", higher=False, share=False),
    "environment_recovered": _metric("environment_recovered"),
    "win_rate": _metric("win_rate"),
    "passed": _metric("passed"),
    "refusal": _metric("refusal"),
    "over_refusal": _metric("over_refusal", higher=False),
    "toxicity": _metric("toxicity", higher=False),
    "unequal_treatment": _metric("unequal_treatment", higher=False),
    "stereotype": _metric("stereotype", higher=False),
    "stereotype_margin": _metric("stereotype_margin", higher=False, share=False),
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


def size(metric: Metric, difference: float) -> str:
    """A difference as people say it: `12 points` of a share, else `0.41`."""
    difference = abs(difference)
    if metric.share:
        points = f"{100 * difference:.0f}" if difference >= 0.1 else f"{100 * difference:.2g}"
        return f"{points} point{'' if points == '1' else 's'}"
    return f"{difference:.2g}"


def preference(ours: float, theirs: float) -> float:
    """1 where the first is larger, 0 where it is smaller; a tie counts half."""
    return 0.5 if ours == theirs else float(ours > theirs)


def basis(row: dict) -> str:
    """What a metric was measured on: `48 examples`, `99 examples of 33 prompts`; `row` is the metric's in an eval.json."""
    n, clusters = row["n"], row.get("clusters", row["n"])
    text = f"{n:,} example{'' if n == 1 else 's'}"
    return text if clusters == n else f"{text} of {clusters:,} prompt{'' if clusters == 1 else 's'}"


def verdict(row: dict) -> str:
    """The verdict of a comparison in an eval.json in words: of no evidence, whether the examples were too few to show any."""
    few = row["verdict"] == "no evidence" and row.get("detectable", 0) is None
    return TOO_FEW if few else row["verdict"]


# ---- one model


def summary(metric: Metric, columns: np.ndarray, clusters: np.ndarray | None = None) -> dict[str, float]:
    """Value, 95% interval, n and number of clusters of a metric over examples.

    Args:
        columns: (columns, n).
        clusters: the cluster of each example (n,), any numbers or names; None where each is its own.
    """
    n, value = columns.shape[1], metric.of(columns)
    sums, sizes = cluster_sums(columns, clusters)
    if metric.share:
        by_cluster, by_example = left_out(metric, sums, sizes), left_out(metric, *cluster_sums(columns, None))
        low, high = binomial_interval(value, worth(by_cluster, by_example, sizes).examples)
    else:
        tail = _tail(len(sizes))
        low, high = np.quantile(resampled(metric, sums, sizes), [tail, 1 - tail]).tolist()
        low, high = min(low, value), max(high, value)  # BLEU of few answers may lie beyond its resamples
    return {"value": value, "low": low, "high": high, "n": n, "clusters": len(sizes)}


def binomial_interval(share: float, n: float) -> tuple[float, float]:
    """The exact 95% interval of a share of n independent examples (Clopper and Pearson 1934); n need not be whole."""
    tail = (1 - LEVEL) / 2
    ones = share * n
    low = stats.beta.ppf(tail, ones, n - ones + 1) if ones > 0 else 0.0
    high = stats.beta.ppf(1 - tail, ones + 1, n - ones) if n - ones > 0 else 1.0
    return float(low), float(high)


# ---- clusters


def cluster_sums(columns: np.ndarray, clusters: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Sums (columns, G) of columns (columns, n), and numbers (G,) of examples, of each cluster."""
    if clusters is None:
        return columns, np.ones(columns.shape[1])
    _, place, sizes = np.unique(clusters, return_inverse=True, return_counts=True)
    return np.array([np.bincount(place, column, len(sizes)) for column in columns]), sizes.astype(float)


def left_out(metric: Metric, sums: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """The metric's values (G,) without one of the clusters each; of one cluster alone, its value."""
    if len(sizes) == 1:
        return metric.value(sums, sizes)
    return metric.value(sums.sum(axis=1, keepdims=True) - sums, sizes.sum() - sizes)


def standard_error(without: np.ndarray) -> float:
    """The jackknife's standard error of a value from those without one of the clusters (G,) (Tukey 1958)."""
    return float(np.sqrt((len(without) - 1) * without.var()))


class Worth(NamedTuple):
    """What examples in clusters are worth, of which some say the same as others of their cluster."""

    examples: float
    """how many independent ones say as much: 1 to n"""
    df: float
    """degrees of freedom of the standard error: G - 1 of clusters of one size"""


def worth(by_cluster: np.ndarray, by_example: np.ndarray, sizes: np.ndarray) -> Worth:
    """What n examples in G clusters are worth, from a value without one cluster (G,) and without one example (n,) each.

    The design effect is the ratio of the two variances (Kish 1965), and the correlation within clusters what makes it so large.
    From the latter come Satterthwaite's (1946) degrees of freedom, since few large clusters among many small ones decide the
    error alone. Examples are n over the design effect, times the ratio of squared t quantiles, as the error of few clusters is
    known less well (Korn and Graubard 1998).
    """
    n, clusters = len(by_example), len(sizes)
    if clusters == n or n == 1:
        return Worth(float(n), float(max(n - 1, 1)))
    alone, together = standard_error(by_example), standard_error(by_cluster)
    most = (sizes**2).sum() / n  # the design effect where the examples of a cluster say all the same
    effect = float(np.clip((together / alone) ** 2, 1, most)) if alone and together else most
    correlation = (effect - 1) / (most - 1)
    spread = sizes + correlation * (sizes**2 - sizes)
    df = float(np.clip(spread.sum() ** 2 / (spread**2).sum() - 1, 1, n - 1))
    t_examples, t_clusters = (stats.t.ppf(LEVEL / 2 + 0.5, count) for count in (n - 1, df))
    return Worth(float(max(n / effect * (t_examples / t_clusters) ** 2, 1)), df)


# ---- what could have been found


def detectable_share(n: float, discordant: float, level: float = 1 - LEVEL) -> float:
    """The difference of two shares that McNemar's test finds (p < `level`) on n examples with a power of 80 %.

    As many pairs are discordant as were seen, but one at least, and no fewer than the difference itself needs. Of examples in
    clusters, n and `discordant` are those of as many independent ones as they are worth.
    """
    n, discordant = int(n), discordant * int(n) / n
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


# ---- several comparisons


def holm(ps: list[float]) -> list[float]:
    """The p-values, corrected for their number (Holm 1979): under 5 % only where no chance finding among all is likelier."""
    order = np.argsort(ps)
    stepped = np.array(ps)[order] * np.arange(len(ps), 0, -1)
    corrected = np.empty(len(ps))
    corrected[order] = np.minimum(np.maximum.accumulate(stepped), 1.0)
    return corrected.tolist()


# ---- resamples


def resampled(metric: Metric, sums: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """The metric's value in each of RESAMPLES resamples of the clusters, always the same ones for the same number of them.

    Args:
        sums: (columns, G), each cluster's.
        sizes: (G,), how many examples it has.
    """
    blocks = (times.astype(float) for times in _resamples(len(sizes)))
    return np.concatenate([metric.value(sums @ times, sizes @ times) for times in blocks])


@lru_cache(maxsize=2)
def _resamples(clusters: int) -> list[np.ndarray]:
    """How often each cluster is drawn, in blocks (G, RESAMPLES / BLOCKS)."""
    random = np.random.default_rng(0)
    blocks = []
    for _ in range(BLOCKS):
        drawn = random.integers(clusters, size=(RESAMPLES // BLOCKS, clusters))
        drawn += clusters * np.arange(len(drawn))[:, None]
        counts = np.bincount(drawn.ravel(), minlength=drawn.size).reshape(drawn.shape)
        blocks.append(np.ascontiguousarray(counts.T, dtype=np.uint16))
    return blocks


def _tail(n: int) -> float:
    """The percentile at which an interval begins: below 2.5, as percentiles of few examples are too narrow.

    Without it, 20 examples raise 8 % false alarms (Hesterberg 2015, What teachers should know about the bootstrap).
    """
    return float(stats.norm.cdf(stats.t.ppf((1 - LEVEL) / 2, max(n - 1, 1)) * np.sqrt(n / max(n - 1, 1))))
