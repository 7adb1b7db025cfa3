"""Two models on the same examples: the exact tests by hand, intervals that agree with p, clusters, and what could be found."""

import itertools

import numpy as np
import pytest
from metric_columns import losses, share
from scipy import stats

from posttrain.metrics.paired import comparison, sign_flip
from posttrain.metrics.statistics import FEWEST, METRICS, summary

PERPLEXITY, ACCURACY = METRICS["perplexity"], METRICS["exact_match"]


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
    assert row["difference"] == metric.of(ours) - metric.of(theirs)
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
    assert comparison(PERPLEXITY, columns, losses(1.9)) == comparison(PERPLEXITY, columns.copy(), losses(1.9))


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
    assert sign_flip(ours[0] - theirs[0]) == pytest.approx(p)
    row = comparison(ACCURACY, ours, theirs)
    assert row["p"] == pytest.approx(p)
    assert (row["p"] < 0.05) == (row["low"] > 0 or row["high"] < 0)
    told = p < 0.05 and ours.shape[1] >= FEWEST
    assert row["verdict"] == (("better" if wins > losses else "worse") if told else "no evidence")


def test_no_discordant_pair_is_no_evidence_at_all():
    assert comparison(ACCURACY, share(3, 8), share(3, 8))["p"] == 1


def test_the_difference_of_a_few_wins_is_as_uncertain_as_their_share():
    row = comparison(ACCURACY, *pairs(12, 0, 0))
    low = stats.binomtest(12, 12).proportion_ci(method="exact").low
    assert (row["low"], row["high"]) == pytest.approx((2 * low - 1, 1))
    none = comparison(ACCURACY, *pairs(0, 0, 20))
    assert (none["low"], none["high"]) == pytest.approx((-(1 - 0.025 ** (1 / 20)), 1 - 0.025 ** (1 / 20)))


@pytest.mark.parametrize("shift", [0.0, 0.01, 0.02, 0.03])
def test_p_of_a_mean_is_the_paired_t_tests(shift):
    random = np.random.default_rng(3)
    ours, theirs = (2 + change + 0.1 * random.standard_normal(100) for change in (0, shift))
    row = comparison(METRICS["reward"], ours[None], theirs[None])
    test = stats.ttest_rel(ours, theirs)
    assert row["p"] == pytest.approx(test.pvalue)
    assert (row["low"], row["high"]) == pytest.approx(tuple(test.confidence_interval())) or row["p"] > 0.05


@pytest.mark.parametrize("seed", range(20))
def test_the_interval_leaves_out_zero_where_p_is_under_5_percent(seed):
    row = comparison(PERPLEXITY, losses(2.0, n=12, seed=seed), losses(2.2, n=12, seed=seed + 100))
    assert (row["p"] < 0.05) == (row["low"] > 0 or row["high"] < 0)


def test_few_examples_have_no_p_below_what_their_signs_could_give():
    for n in (1, 2, 5, 8):
        ours = np.arange(n)[None] + 10.0
        assert comparison(METRICS["reward"], ours, np.arange(n)[None] * 1.0)["p"] == pytest.approx(0.5 ** (n - 1))


# ---- too few


def test_below_ten_examples_there_is_no_verdict_whatever_they_say():
    for metric, pair in ((ACCURACY, pairs(9, 0, 0)), (PERPLEXITY, (losses(1.0, 9), losses(3.0, 9)))):
        row = comparison(metric, *pair)
        assert row["p"] < 0.05
        assert (row["verdict"], row["detectable"]) == ("no evidence", None)
    assert comparison(ACCURACY, *pairs(10, 0, 0))["verdict"] == "better"


def test_ten_rows_of_nine_prompts_are_too_few():
    row = comparison(ACCURACY, *pairs(10, 0, 0), np.array([0, *range(9)]))
    assert (row["verdict"], row["detectable"]) == ("no evidence", None)


def test_only_a_comparison_without_evidence_says_what_it_could_have_found():
    assert "detectable" not in comparison(ACCURACY, share(70, 100), share(40, 100))
    assert comparison(ACCURACY, share(41, 100), share(40, 100))["detectable"] > 0
    assert comparison(PERPLEXITY, losses(2.0), losses(2.0, seed=2))["detectable"] > 0


# ---- ties and clusters


def every_flip(changes: list[float]) -> float:
    """The p of a sum whose signs are chance, by trying all of them."""
    sums = [abs(sum(signs)) for signs in itertools.product(*((-change, change) for change in changes))]
    return float(np.mean([one >= abs(sum(changes)) - 1e-9 for one in sums]))


@pytest.mark.parametrize(
    "changes", [[3, 3, -1, 2, 0, 2], [4, -2, 2, 6, -8], [10, 9, 8, 7, 6, 5, 4, -3, 2, 1], [1, -1], [0, 0]]
)
def test_the_flipped_signs_of_clusters_are_all_counted(changes):
    assert sign_flip(np.array(changes, dtype=float)) == pytest.approx(every_flip(changes))


def test_a_tie_moves_half_as_far_as_a_loss():
    ours, theirs = np.full((1, 12), 1.0), np.full((1, 12), 0.5)
    theirs[0, 0] = 0.0
    row = comparison(ACCURACY, ours, theirs)
    assert row["difference"] == pytest.approx(6.5 / 12)
    assert row["p"] == pytest.approx(2 / 2**12)


@pytest.mark.parametrize("metric", [ACCURACY, PERPLEXITY])
def test_a_row_that_is_there_five_times_says_no_more_than_once(metric):
    ours, theirs = (losses(2.0, 30), losses(2.03, 30, seed=2)) if metric is PERPLEXITY else pairs(8, 1, 21)
    once = comparison(metric, ours, theirs)
    five = [np.repeat(side, 5, axis=1) for side in (ours, theirs)]
    together = comparison(metric, *five, np.repeat(np.arange(30), 5))
    assert together["p"] == pytest.approx(once["p"])
    assert together["difference"] == pytest.approx(once["difference"])
    assert comparison(metric, *five)["p"] < together["p"] / 5  # taken for 150 examples


def test_the_order_of_rows_and_the_names_of_clusters_change_nothing():
    ours, theirs = losses(2.0, 60), losses(2.1, 60, seed=2)
    clusters, order = np.repeat(np.arange(20), 3), np.random.default_rng(0).permutation(60)
    row = comparison(PERPLEXITY, ours, theirs, clusters)
    other = comparison(PERPLEXITY, ours[:, order], theirs[:, order], 100 - clusters[order])
    assert {key: other[key] for key in ("low", "high", "p")} == pytest.approx(
        {key: row[key] for key in ("low", "high", "p")}
    )


def correlated(random: np.random.Generator, prompts: int, rows: int) -> np.ndarray:
    """A standard normal number a row, of which those of one prompt have a correlation of one half."""
    own, shared = random.standard_normal(prompts * rows), random.standard_normal(prompts)
    return np.sqrt(0.5) * (own + np.repeat(shared, rows))


@pytest.mark.parametrize("metric", [ACCURACY, PERPLEXITY])
def test_rows_of_one_prompt_raise_no_more_false_alarms(metric):
    random, alarms = np.random.default_rng(7), 0
    clusters = np.repeat(np.arange(10), 10)
    for _ in range(200):
        one, other = (correlated(random, 10, 10) for _ in range(2))
        sides = [
            np.array([side, np.ones(100)]) if metric is PERPLEXITY else (side > 0)[None] * 1.0 for side in (one, other)
        ]
        alarms += comparison(metric, *sides, clusters)["p"] < 0.05
    assert alarms <= 19  # 200 times 5 % is 10; more than 19 by chance 0.3 %
