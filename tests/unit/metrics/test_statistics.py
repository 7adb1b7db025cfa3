"""Metrics against closed forms, intervals against known distributions, what clusters are worth, and Holm's correction."""

import math

import numpy as np
import pytest
from metric_columns import losses, share
from scipy import stats

from posttrain.metrics.paired import sign_flip
from posttrain.metrics.statistics import (
    METRICS,
    basis,
    cluster_sums,
    detectable_share,
    holm,
    left_out,
    preference,
    standard_error,
    summary,
    worth,
)

PERPLEXITY, ACCURACY = METRICS["perplexity"], METRICS["exact_match"]


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


def test_the_interval_of_a_share_of_few_is_the_exact_one():
    row = summary(ACCURACY, share(1, 6))
    assert (row["low"], row["high"]) == pytest.approx(tuple(stats.binomtest(1, 6).proportion_ci(method="exact")))


def test_a_tie_counts_half():
    assert [preference(2.0, 1.0), preference(1.0, 1.0), preference(1.0, 2.0)] == [1, 0.5, 0]
    assert summary(ACCURACY, np.full((1, 8), 0.5))["value"] == 0.5


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


# ---- clusters


def test_clusters_are_summed_by_name_and_one_each_where_there_are_none():
    columns = np.array([[1.0, 2.0, 3.0], [10.0, 20.0, 30.0]])
    sums, sizes = cluster_sums(columns, np.array([7, 3, 7]))
    assert (sums.tolist(), sizes.tolist()) == ([[2, 4], [20, 40]], [1, 2])
    sums, sizes = cluster_sums(columns, None)
    assert (sums.tolist(), sizes.tolist()) == (columns.tolist(), [1, 1, 1])


def test_the_jackknife_of_a_mean_is_the_classical_standard_error():
    column = np.random.default_rng(0).standard_normal((1, 30))
    without = left_out(METRICS["reward"], *cluster_sums(column, None))
    assert standard_error(without) == pytest.approx(column.std(ddof=1) / math.sqrt(30))


def test_the_jackknife_of_perplexity_is_about_the_delta_methods():
    columns = losses(2.0, n=400)
    log_prob, tokens = columns
    residuals = -log_prob - (-log_prob.sum() / tokens.sum()) * tokens
    expected = math.exp(-log_prob.sum() / tokens.sum()) * math.sqrt((residuals**2).sum()) / tokens.sum()
    assert standard_error(left_out(PERPLEXITY, *cluster_sums(columns, None))) == pytest.approx(expected, rel=0.02)


def of(column: np.ndarray, clusters: np.ndarray) -> tuple[float, float]:
    """What the examples of a column (n,) are worth."""
    sums, sizes = cluster_sums(column[None], clusters)
    return worth(left_out(ACCURACY, sums, sizes), left_out(ACCURACY, *cluster_sums(column[None], None)), sizes)


def test_examples_that_repeat_their_cluster_are_worth_no_more_than_one_of_it():
    one = np.arange(20) % 2 * 1.0
    worthy = of(np.repeat(one, 5), np.repeat(np.arange(20), 5))
    assert worthy.df == pytest.approx(19)
    assert worthy.examples == pytest.approx(20 * (stats.t.ppf(0.975, 99) / stats.t.ppf(0.975, 19)) ** 2)


def test_independent_examples_in_clusters_are_worth_nearly_all_of_themselves():
    random, found = np.random.default_rng(0), []
    for _ in range(50):
        found.append(of((random.random(300) < 0.5) * 1.0, np.repeat(np.arange(100), 3)).examples)
    assert 250 < np.mean(found) <= 300


def test_a_few_large_clusters_decide_the_degrees_of_freedom():
    column, clusters = np.repeat([1.0, 0.0, 1.0, 0.0], [40, 40, 10, 10]), np.repeat([0, 1, 2, 3], [40, 40, 10, 10])
    assert of(column, clusters).df < 2
    assert of(column, np.arange(100)) == (100, 99)


def test_the_interval_of_a_value_resamples_whole_clusters():
    random = np.random.default_rng(0)
    once = losses(2.0, n=40)
    five = np.repeat(once, 5, axis=1)
    clusters = np.repeat(np.arange(40), 5)
    alone, together, apart = summary(PERPLEXITY, once), summary(PERPLEXITY, five, clusters), summary(PERPLEXITY, five)
    assert (together["n"], together["clusters"], apart["clusters"]) == (200, 40, 200)
    assert (together["low"], together["high"]) == pytest.approx((alone["low"], alone["high"]))
    assert apart["high"] - apart["low"] < 0.6 * (together["high"] - together["low"])
    right = (random.random(40) < 0.5) * 1.0
    wide, narrow = summary(ACCURACY, np.repeat(right, 5)[None], clusters), summary(ACCURACY, np.repeat(right, 5)[None])
    assert wide["high"] - wide["low"] > 2 * (narrow["high"] - narrow["low"])


def test_the_number_of_prompts_is_said_where_it_is_another_than_that_of_the_examples():
    said = [
        basis({"n": 48}),
        basis({"n": 1, "clusters": 1}),
        basis({"n": 1200, "clusters": 1}),
        basis({"n": 99, "clusters": 33}),
    ]
    assert said == ["48 examples", "1 example", "1,200 examples of 1 prompt", "99 examples of 33 prompts"]


# ---- what could have been found


def test_where_all_pairs_agree_six_of_n_must_differ():
    assert stats.binom.sf(5, 20, detectable_share(20, 0)) == pytest.approx(0.8, abs=1e-3)


def test_a_detectable_share_is_about_the_normal_formula_where_n_is_large():
    n, discordant = 2000, 400
    expected = (1.96 + 0.84) * math.sqrt(discordant / n / n)
    assert detectable_share(n, discordant) == pytest.approx(expected, rel=0.06)


def test_more_examples_find_less_and_more_noise_hides_more():
    assert detectable_share(500, 100) < detectable_share(100, 20) < detectable_share(20, 4)
    assert detectable_share(100, 10) < detectable_share(100, 40)


def test_the_detectable_share_is_found_four_times_of_five():
    n, share = 60, 0.3
    difference = detectable_share(n, int(n * share))
    assert difference < share
    random = np.random.default_rng(0)
    odds = [0.7, (share + difference) / 2, (share - difference) / 2]  # tied, ours alone, theirs alone
    outcomes = [random.choice(3, size=n, p=odds) for _ in range(300)]
    found = sum(sign_flip((rows == 1) * 1.0 - (rows == 2)) < 0.05 for rows in outcomes)
    assert 220 <= found <= 260


# ---- several comparisons


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_holm_of_one_changes_nothing_and_none_is_above_one():
    assert holm([0.03]) == [0.03]
    assert holm([0.6, 0.9]) == [1, 1]
    assert holm([]) == []


def test_holm_keeps_the_order_and_is_between_the_p_and_bonferronis():
    ps = np.random.default_rng(0).random(30) ** 4
    corrected = np.array(holm(list(ps)))
    assert (np.diff(corrected[np.argsort(ps)]) >= 0).all()
    assert (corrected >= ps).all() and (corrected <= np.minimum(30 * ps, 1) + 1e-12).all()


def test_among_true_nulls_holm_raises_a_false_alarm_one_time_in_twenty():
    random = np.random.default_rng(1)
    assert 25 <= sum(min(holm(list(random.random(12)))) < 0.05 for _ in range(1000)) <= 75
