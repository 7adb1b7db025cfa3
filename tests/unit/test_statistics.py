"""Metrics against closed forms, intervals against known distributions, and verdicts in the right direction."""

import math

import numpy as np
import pytest

from posttrain.statistics import METRICS, comparison, summary

PERPLEXITY, ACCURACY = METRICS["perplexity"], METRICS["exact_match"]


def share(ones: int, n: int) -> np.ndarray:
    """A column of `ones` ones and otherwise zeros."""
    return np.array([[1.0] * ones + [0.0] * (n - ones)])


def losses(mean: float, n: int = 200, noise: float = 0.3, seed: int = 1) -> np.ndarray:
    """Log-probabilities and tokens of n answers whose loss a token is about `mean`."""
    random = np.random.default_rng(seed)
    tokens = random.integers(5, 50, n).astype(float)
    return np.array([-(mean + noise * random.standard_normal(n)) * tokens, tokens])


def test_perplexity_is_over_tokens_not_over_examples():
    columns = np.array([[-1.0, -30.0], [1.0, 9.0]])
    assert summary(PERPLEXITY, columns)["value"] == pytest.approx(math.exp(31 / 10))


def test_a_uniform_model_has_the_vocabularys_perplexity():
    tokens = np.array([3.0, 7.0, 1.0])
    row = summary(PERPLEXITY, np.array([-tokens * math.log(512), tokens]))
    assert [row[key] for key in ("value", "low", "high")] == pytest.approx([512, 512, 512])


def test_a_share_is_the_mean_and_n_the_examples():
    row = summary(ACCURACY, share(3, 8))
    assert (row["value"], row["n"]) == (0.375, 8)
    assert row["low"] < 0.375 < row["high"]


def test_the_interval_of_a_share_is_about_the_normal_one():
    row = summary(ACCURACY, share(240, 400))
    half = 1.96 * math.sqrt(0.6 * 0.4 / 400)
    assert (row["low"], row["high"]) == pytest.approx((0.6 - half, 0.6 + half), abs=0.01)


def test_the_interval_of_perplexity_is_about_the_delta_methods():
    columns = losses(2.0, n=400)
    log_prob, tokens = columns
    residuals = -log_prob - (-log_prob.sum() / tokens.sum()) * tokens
    half = 1.96 * math.sqrt((residuals**2).sum()) / tokens.sum()
    row = summary(PERPLEXITY, columns)
    assert math.log(row["low"]) == pytest.approx(math.log(row["value"]) - half, abs=0.15 * half)
    assert math.log(row["high"]) == pytest.approx(math.log(row["value"]) + half, abs=0.15 * half)


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    random = np.random.default_rng(0)
    rows = [summary(ACCURACY, (random.random((1, 60)) < 0.3).astype(float)) for _ in range(100)]
    assert 88 <= sum(row["low"] <= 0.3 <= row["high"] for row in rows) <= 99


# From the tables of Clopper and Pearson's exact 95% interval.
EXACT = [
    (0, 10, 0.0, 0.30850),
    (10, 10, 0.69150, 1.0),
    (0, 50, 0.0, 0.07112),
    (50, 50, 0.92888, 1.0),
    (1, 1, 0.025, 1.0),
]


@pytest.mark.parametrize(("ones", "n", "low", "high"), EXACT)
def test_a_share_of_none_or_all_has_the_exact_interval(ones, n, low, high):
    row = summary(ACCURACY, share(ones, n))
    assert (row["low"], row["high"]) == pytest.approx((low, high), abs=1e-5)


def test_a_perplexity_of_one_gets_no_binomial_interval():
    row = summary(PERPLEXITY, np.array([[0.0, 0.0], [3.0, 4.0]]))
    assert (row["value"], row["low"], row["high"]) == (1, 1, 1)


VERDICTS = [
    (PERPLEXITY, losses(1.5), losses(2.0), "better"),
    (PERPLEXITY, losses(2.0), losses(1.5), "worse"),
    (PERPLEXITY, losses(2.0), losses(2.0, seed=2), "no evidence"),
    (PERPLEXITY, losses(2.0), losses(2.0), "no evidence"),
    (ACCURACY, share(70, 100), share(40, 100), "better"),
    (ACCURACY, share(40, 100), share(70, 100), "worse"),
    (ACCURACY, share(41, 100), share(40, 100)[:, ::-1], "no evidence"),
    (ACCURACY, share(40, 100), share(40, 100), "no evidence"),
]


@pytest.mark.parametrize(("metric", "ours", "theirs", "verdict"), VERDICTS)
def test_the_verdict_says_which_way_is_better_and_says_so_only_on_evidence(metric, ours, theirs, verdict):
    row = comparison(metric, ours, theirs)
    assert row["verdict"] == verdict
    assert row["difference"] == metric.value(ours) - metric.value(theirs)
    assert row["low"] <= row["difference"] <= row["high"]


def test_identical_examples_have_no_difference_at_all():
    row = comparison(PERPLEXITY, losses(2.0), losses(2.0))
    assert (row["difference"], row["low"], row["high"]) == (0, 0, 0)


def test_examples_are_paired():
    ours = losses(2.0, noise=1.0)
    theirs = ours - np.array([0.02 * ours[1], np.zeros(200)])  # every token a little less likely
    intervals = [summary(PERPLEXITY, columns) for columns in (ours, theirs)]
    assert intervals[0]["high"] > intervals[1]["low"]  # apart, the two cannot be told from each other
    assert comparison(PERPLEXITY, ours, theirs)["verdict"] == "better"


def test_a_comparison_is_antisymmetric():
    one, other = share(70, 100), share(40, 100)
    forwards, backwards = comparison(ACCURACY, one, other), comparison(ACCURACY, other, one)
    assert (forwards["difference"], forwards["low"], forwards["high"]) == pytest.approx(
        (-backwards["difference"], -backwards["high"], -backwards["low"])
    )


def test_the_same_examples_give_the_same_bits():
    columns = losses(2.0)
    assert summary(PERPLEXITY, columns) == summary(PERPLEXITY, columns.copy())
    assert comparison(PERPLEXITY, columns, losses(1.9)) == comparison(PERPLEXITY, columns, losses(1.9))


@pytest.mark.parametrize(
    ("metric", "ours", "theirs"),
    [
        (ACCURACY, share(1, 1), share(0, 1)),
        (ACCURACY, share(2, 2), share(0, 2)),
        (PERPLEXITY, losses(1.0, 1), losses(1.1, 1)),
    ],
)
def test_one_or_two_examples_are_no_evidence(metric, ours, theirs):
    assert comparison(metric, ours, theirs)["verdict"] == "no evidence"
