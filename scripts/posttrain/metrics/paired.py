"""Two models compared on the same examples: the difference, its error, its interval, p and the verdict.

Examples of one prompt are not independent. Their sums are taken together as one cluster, and everything here is computed from
the clusters (Miller 2024, arXiv 2411.00640); an example that shares its prompt with no other is a cluster of its own. The
standard error is the jackknife's that leaves out one cluster at a time. It is added to the spread between trainings, where a
setting was trained several times, as two independent t variables (Behrens 1929, Fisher 1935), which raises no more false
alarms than it says (Robinson 1976, Annals of Statistics 4, 963).

p is that of the sum of the two, or for shares of two single trainings that of a test that flips the signs of the clusters'
differences: of right and wrong examples, each a cluster of its own, it is McNemar's exact test (1947). One metric of an
eval.json, a point of a sweep and every page have the verdict from here.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy import optimize, special, stats

from posttrain.metrics.statistics import (
    FEWEST,
    LEVEL,
    POWER,
    Metric,
    binomial_interval,
    cluster_sums,
    detectable_share,
    holm,
    left_out,
    standard_error,
    worth,
)

ALARM = 1 - LEVEL
HALVES = 2  # a tie counts half, so twice a share's differences are integers


class Error(NamedTuple):
    """The standard error of a mean over trainings: by the examples and by the trainings, with their degrees of freedom.

    `trainings_df` 0 is a single training: its spread is not known, and only the examples count.
    """

    examples: float
    examples_df: float
    trainings: float = 0.0
    trainings_df: int = 0

    def beyond(self, difference: float) -> float:
        """Two-sided p of a difference: how likely chance alone is as far from zero."""
        difference = abs(difference)
        if difference == 0:
            return 1.0
        if not self.trainings:
            return float(2 * special.stdtr(self.examples_df, -difference / self.examples)) if self.examples else 0.0
        points, weights = _t_grid(self.examples_df)
        tails = special.stdtr(self.trainings_df, -(difference - self.examples * points) / self.trainings)
        return float(2 * weights @ tails)

    def width(self, p: float = ALARM) -> float:
        """The difference whose two-sided p this is: half the width of an interval."""
        most = [error * stats.t.isf(p / 4, df) for error, df in (self[:2], self[2:]) if error]
        return float(optimize.brentq(lambda half: self.beyond(half) - p, 0, sum(most), rtol=1e-6)) if most else 0.0

    def detectable(self, level: float) -> float:
        """The true difference that p < `level` finds with a power of 80 %."""
        return self.width(level) + self.width(2 * (1 - POWER))


@lru_cache(maxsize=8)
def _t_grid(df: float) -> tuple[np.ndarray, np.ndarray]:
    """Points and weights for the mean of a function of a t variable; dense in the middle, far in the tails."""
    steps = np.linspace(-6, 6, 2001)
    points = np.sinh(steps)
    weights = stats.t.pdf(points, df) * np.cosh(steps)
    return points, weights / weights.sum()


# ---- what is measured


class Measured(NamedTuple):
    """A metric of one setting on n examples in G clusters."""

    values: np.ndarray
    """(trainings,)"""
    by_cluster: np.ndarray
    """(G,), the mean over trainings without one of the clusters"""
    by_example: np.ndarray
    """(n,), the same without one of the examples"""
    columns: np.ndarray
    """(columns, n), the mean over trainings"""
    clusters: np.ndarray | None
    """(n,), the cluster of each example; None where each is its own"""


def measure(metric: Metric, columns: list[np.ndarray], clusters: np.ndarray | None = None) -> Measured:
    """A metric of the trainings of one setting, each with its columns (columns, n) of the same n examples."""
    values = np.array([metric.of(own) for own in columns])
    by_cluster, by_example = (
        np.mean([left_out(metric, *cluster_sums(own, ids)) for own in columns], axis=0) for ids in (clusters, None)
    )
    return Measured(values, by_cluster, by_example, np.mean(columns, axis=0), clusters)


def error(without: np.ndarray, df: float, *trainings: np.ndarray) -> Error:
    """The error of a mean over trainings, or of the difference of two such means.

    Args:
        without: (G,), its values without one of the clusters, whose standard error has `df` degrees of freedom.
        trainings: the values of the trainings of each setting.
    """
    trainings_df = sum(len(values) - 1 for values in trainings)
    if not trainings_df:
        return Error(standard_error(without), df)
    variance = sum(((values - values.mean()) ** 2).sum() for values in trainings) / trainings_df
    spread = float(np.sqrt(variance * sum(1 / len(values) for values in trainings)))
    return Error(standard_error(without), df, spread, trainings_df)


def spread(measured: Measured) -> Error:
    """The error of the mean of one setting's trainings."""
    sizes = cluster_sums(measured.columns, measured.clusters)[1]
    df = worth(measured.by_cluster, measured.by_example, sizes).df
    return error(measured.by_cluster, df, measured.values)


# ---- compared


class Comparison(NamedTuple):
    """One setting against another, before a correction for the number of comparisons."""

    difference: float
    error: Error
    p: float
    n: int
    clusters: int
    worth: float
    """independent examples that say as much as these do"""
    differing: float
    """those of them on which the two are not the same"""
    low: float
    high: float


def compare(metric: Metric, ours: Measured, theirs: Measured) -> Comparison:
    """The difference ours - theirs on the same examples.

    p is not below what the signs of the clusters that differ could give. An interval holds zero where p is 5 % or more.
    """
    difference = float(ours.values.mean() - theirs.values.mean())
    changes, sizes = cluster_sums(ours.columns - theirs.columns, ours.clusters)
    moved, _ = cluster_sums(np.abs(ours.columns - theirs.columns).sum(axis=0, keepdims=True), ours.clusters)
    without = ours.by_cluster - theirs.by_cluster
    n, (worthy, df) = ours.columns.shape[1], worth(without, ours.by_example - theirs.by_example, sizes)
    found = error(without, df, ours.values, theirs.values)
    p = max(found.beyond(difference), min(1.0, 2.0 ** (1 - np.count_nonzero(moved))))
    if metric.share and not found.trainings_df:
        p = max(p, sign_flip(changes[0] * HALVES))
    share = float(moved.sum() / sizes.sum())
    low, high = difference - found.width(), difference + found.width()
    if metric.share:
        alone = len(sizes) == n and not found.trainings_df
        exact = _of_shares(difference, share, worthy) if alone or not found.examples else (low, high)
        low, high = max(min(low, exact[0]), -1.0), min(max(high, exact[1]), 1.0)
    if p >= ALARM:
        low, high = min(low, 0.0), max(high, 0.0)
    return Comparison(difference, found, p, n, len(sizes), worthy, share * worthy, low, high)


def sign_flip(changes: np.ndarray) -> float:
    """Two-sided p of a sum of integer changes (G,) whose signs are due to chance alone; 0, which says nothing, of others.

    Exact: the sum of all outcomes at least as far from zero. Of changes of one size it is the binomial test of their signs.
    """
    sizes = np.abs(np.rint(changes)).astype(int)
    if np.abs(np.abs(changes) - sizes).max(initial=0) > 1e-9:
        return 0.0
    values, counts = np.unique(sizes[sizes > 0], return_counts=True)
    if not len(values):
        return 1.0
    step = np.gcd.reduce(values)
    chances = np.ones(1)  # of the sum being -total, -total + 2, ..., total, in units of `step`
    for value, count in zip(values // step, counts, strict=True):
        spread = np.zeros(value * count + 1)
        spread[::value] = stats.binom.pmf(np.arange(count + 1), count, 0.5)
        chances = np.convolve(chances, spread)
    sums = 2 * np.arange(len(chances)) - (len(chances) - 1)
    observed = abs(int(np.rint(changes.sum()))) // step
    return float(min(1.0, chances[np.abs(sums) >= observed].sum()))


def _of_shares(difference: float, share: float, n: float) -> tuple[float, float]:
    """The interval of a difference of shares, of n independent examples of which a share is not the same, by the exact one
    of the share of these that is ours (Clopper and Pearson 1934); where all are the same, of how many more may not be."""
    if not share:
        edge = binomial_interval(0.0, n)[1]
        return -edge, edge
    low, high = binomial_interval((1 + difference / share) / 2, share * n)
    return (2 * low - 1) * share, (2 * high - 1) * share


# ---- verdicts


def comparison(
    metric: Metric, ours: np.ndarray, theirs: np.ndarray, clusters: np.ndarray | None = None
) -> dict[str, float | str | None]:
    """Difference ours - theirs of two models on the same n examples (both (columns, n)): its interval, p, the verdict."""
    (row,) = verdicts(
        {"": metric}, {("",): compare(metric, measure(metric, [ours], clusters), measure(metric, [theirs], clusters))}
    ).values()
    return row


def verdicts(metrics: dict[str, Metric], found: dict[tuple, Comparison]) -> dict[tuple, dict[str, float | str | None]]:
    """Difference, 95% interval, corrected p and verdict of every comparison, by metric and whatever else names it.

    The p-values are corrected by Holm (1979) for all the comparisons that could have a verdict: those of at least FEWEST
    clusters. `detectable` is the true difference, either way, that is shown with a power of 80 %, the correction counted;
    null where there is none.
    """
    enough = [at for at, one in found.items() if one.clusters >= FEWEST]
    corrected = dict(zip(enough, holm([found[at].p for at in enough]), strict=True))
    level = ALARM / max(1, sum(p >= ALARM for p in corrected.values()))  # that the next one would have had to meet
    rows = {}
    for at, one in found.items():
        metric, p = metrics[at[0]], corrected.get(at, one.p)
        row = {"difference": one.difference, "low": one.low, "high": one.high, "p": p}
        if at in corrected and p < ALARM:
            row["verdict"] = "better" if (one.difference > 0) == metric.higher_is_better else "worse"
        else:
            row |= {"verdict": "no evidence", "detectable": _detectable(metric, one, level)}
        rows[at] = row
    return rows


def _detectable(metric: Metric, one: Comparison, level: float) -> float | None:
    if one.clusters < FEWEST or 2.0 ** (1 - one.clusters) >= level:
        return None
    if not metric.share:
        return one.error.detectable(level)
    if one.clusters == one.n and not one.error.trainings_df:
        difference = detectable_share(one.n, one.differing, level)
    else:  # at least as many examples must differ as the exact test needs
        needed = detectable_share(one.n if one.error.examples else one.worth, 0, level)
        difference = max(one.error.detectable(level), needed)
    return difference if difference <= 1 else None
