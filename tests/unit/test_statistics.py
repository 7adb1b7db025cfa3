"""Metrics against closed forms, intervals against known distributions, and verdicts in the right direction."""

import math

import numpy as np
import pytest
from scipy import stats

from posttrain.statistics import (
    METRICS,
    RESAMPLES,
    bootstrap,
    comparison,
    detectable_mean,
    detectable_share,
    holm,
    mcnemar,
    summary,
)

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


# ---- the test behind a verdict


def pairs(wins: int, losses: int, ties: int = 10) -> tuple[np.ndarray, np.ndarray]:
    """Two columns of right and wrong: so many that ours alone, and that theirs alone got right."""
    ours, theirs = share(wins, wins + losses), 1 - share(wins, wins + losses)
    tied = np.zeros((1, ties))
    return np.hstack([ours, tied]), np.hstack([theirs, tied])


# 2 x the binomial's tail at one half, by hand.
MCNEMAR = [
    (5, 0, 2 / 2**5),
    (6, 0, 2 / 2**6),
    (0, 6, 2 / 2**6),
    (7, 1, 2 * 9 / 2**8),
    (8, 1, 2 * 10 / 2**9),
    (3, 3, 1.0),
]


@pytest.mark.parametrize(("wins", "losses", "p"), MCNEMAR)
@pytest.mark.parametrize("ties", [0, 50])
def test_right_and_wrong_are_tested_by_mcnemars_exact_test_whatever_is_tied(wins, losses, ties, p):
    ours, theirs = pairs(wins, losses, ties)
    assert mcnemar(ours[0], theirs[0]) == pytest.approx(p)
    row = comparison(ACCURACY, ours, theirs)
    assert row["p"] == pytest.approx(p)
    assert row["verdict"] == (("better" if wins > losses else "worse") if p < 0.05 else "no evidence")


def test_no_discordant_pair_is_no_evidence_at_all():
    assert comparison(ACCURACY, share(3, 8), share(3, 8))["p"] == 1


def test_five_wins_of_five_are_no_evidence_though_their_interval_leaves_out_zero():
    row = comparison(ACCURACY, *pairs(5, 0, 0))
    assert row["low"] > 0
    assert row["verdict"] == "no evidence"


@pytest.mark.parametrize("shift", [0.0, 0.01, 0.02, 0.03])
def test_the_bootstraps_p_is_about_the_t_tests(shift):
    random = np.random.default_rng(3)
    losses = [np.array([-(2 + change + 0.1 * random.standard_normal(100)), np.ones(100)]) for change in (0, shift)]
    expected = stats.ttest_rel(*(side[0] for side in losses)).pvalue
    assert comparison(PERPLEXITY, *losses)["p"] == pytest.approx(expected, abs=0.03)


@pytest.mark.parametrize("seed", range(20))
def test_the_interval_leaves_out_zero_where_p_is_under_5_percent(seed):
    row = comparison(PERPLEXITY, losses(2.0, n=12, seed=seed), losses(2.2, n=12, seed=seed + 100))
    assert (row["p"] < 0.05) == (row["low"] > 0 or row["high"] < 0)


def test_p_is_never_zero():
    p = comparison(PERPLEXITY, losses(1.0), losses(2.0))["p"]
    assert 1 / RESAMPLES <= p < 0.01


def test_few_examples_have_no_p_below_what_their_signs_could_give():
    beyond = np.ones(RESAMPLES)
    assert [bootstrap(beyond, n) for n in (1, 2, 5)] == [1, 0.5, 0.0625]
    assert bootstrap(beyond, 6) < 0.05


# ---- what could have been found


def test_only_a_comparison_without_evidence_says_what_it_could_have_found():
    assert "detectable" not in comparison(ACCURACY, share(70, 100), share(40, 100))
    assert comparison(ACCURACY, share(41, 100), share(40, 100))["detectable"] > 0
    assert comparison(PERPLEXITY, losses(2.0), losses(2.0, seed=2))["detectable"] > 0


@pytest.mark.parametrize("n", [1, 5])
def test_too_few_examples_could_have_found_nothing(n):
    assert comparison(ACCURACY, share(0, n), share(0, n))["detectable"] is None
    assert comparison(PERPLEXITY, losses(2.0, n), losses(2.0, n, seed=2))["detectable"] is None


def test_where_all_pairs_agree_six_of_n_must_differ():
    assert stats.binom.sf(5, 20, detectable_share(20, 0)) == pytest.approx(0.8, abs=1e-3)


def test_a_detectable_share_is_about_the_normal_formula_where_n_is_large():
    n, discordant = 2000, 400
    expected = (1.96 + 0.84) * math.sqrt(discordant / n / n)
    assert detectable_share(n, discordant) == pytest.approx(expected, rel=0.06)


def test_more_examples_find_less_and_more_noise_hides_more():
    assert detectable_share(500, 100) < detectable_share(100, 20) < detectable_share(20, 4)
    assert detectable_share(100, 10) < detectable_share(100, 40)


def test_a_detectable_mean_is_about_2_8_standard_errors():
    assert detectable_mean(10_000, 0.5) == pytest.approx((1.96 + 0.84) * 0.5, rel=0.002)
    assert detectable_mean(20, 0.5) > 1.05 * (1.96 + 0.84) * 0.5


def test_the_detectable_share_is_found_four_times_of_five():
    n, share = 60, 0.3
    difference = detectable_share(n, int(n * share))
    assert difference < share
    random = np.random.default_rng(0)
    odds = [0.7, (share + difference) / 2, (share - difference) / 2]  # tied, ours alone, theirs alone
    outcomes = [random.choice(3, size=n, p=odds) for _ in range(300)]
    found = sum(mcnemar((rows == 1).astype(float), (rows == 2).astype(float)) < 0.05 for rows in outcomes)
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
