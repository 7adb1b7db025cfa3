"""Win rates, their verdicts, position bias and agreement with people, on judges whose quality is known."""

import random

import numpy as np
import pytest

from posttrain.evaluation import win_rate
from posttrain.evaluation.judging import Pair, Reply, Verdicts
from posttrain.metrics.statistics import verdict

WON, LOST, FLIPPED = Verdicts("ours", "ours"), Verdicts("theirs", "theirs"), Verdicts("ours", "theirs")


def judged_by(accuracy: float, better: float, n: int, seed: int) -> list[Verdicts]:
    """Verdicts on n pairs of a judge that is right so often each time, where ours is better in a share of the pairs."""
    random_ = random.Random(seed)

    def said(ours_is_better: bool) -> str:
        right = random_.random() < accuracy
        return "ours" if right == ours_is_better else "theirs"

    truth = [random_.random() < better for _ in range(n)]
    return [Verdicts(said(one), said(one)) for one in truth]


def test_a_win_rate_counts_ties_half_and_is_compared_with_the_other_s():
    value, row = win_rate.win_rate([WON] * 12 + [LOST] * 2 + [FLIPPED] * 6, None)
    assert (value["value"], value["n"], value["clusters"]) == (0.75, 20, 20)
    assert row["difference"] == pytest.approx(0.5) and row["verdict"] == "better"
    # McNemar's exact test: 12 of 14 decided pairs.
    assert row["p"] == pytest.approx(2 * (1 + 14 + 91) / 2**14)
    assert (value["low"], value["high"]) == pytest.approx(((1 + row["low"]) / 2, (1 + row["high"]) / 2))
    assert 0.5 < value["low"] < 0.75 < value["high"] < 1


def test_the_other_side_sees_the_same():
    ours, row = win_rate.win_rate([WON] * 12 + [LOST] * 2 + [FLIPPED] * 6, None)
    theirs, mirrored = win_rate.win_rate([LOST] * 12 + [WON] * 2 + [FLIPPED] * 6, None)
    assert theirs["value"] == 1 - ours["value"] and mirrored["verdict"] == "worse" and mirrored["p"] == row["p"]
    assert (theirs["low"], theirs["high"]) == pytest.approx((1 - ours["high"], 1 - ours["low"]))


def test_a_judge_that_only_sees_the_order_says_nothing():
    value, row = win_rate.win_rate([FLIPPED] * 50, None)
    assert (value["value"], row["difference"], row["verdict"], row["p"]) == (0.5, 0, "no evidence", 1)
    assert value["low"] < 0.5 < value["high"]


def test_below_ten_prompts_there_is_no_verdict():
    assert verdict(win_rate.win_rate([WON] * 9, None)[1]) == "too few examples"
    assert verdict(win_rate.win_rate([WON] * 10, None)[1]) == "better"
    groups = np.repeat(np.arange(9), 4)
    value, row = win_rate.win_rate([WON] * 36, groups)
    assert (value["n"], value["clusters"], verdict(row)) == (36, 9, "too few examples")


def test_a_perfect_judge_finds_a_better_model_and_one_that_guesses_does_not():
    perfect = [win_rate.win_rate(judged_by(1.0, 0.75, 60, seed), None)[1]["verdict"] for seed in range(40)]
    assert perfect.count("better") > 36 and "worse" not in perfect
    guessing = [win_rate.win_rate(judged_by(0.5, 0.75, 60, seed), None)[1]["verdict"] for seed in range(40)]
    assert guessing.count("no evidence") >= 36  # 5 % are false alarms at most, and so is chance
    weak = [win_rate.win_rate(judged_by(0.7, 0.75, 60, seed), None)[0]["value"] for seed in range(40)]
    assert 0.5 < np.mean(weak) < 0.75  # what a judge gets wrong pulls the win rate to a half


# ---- details


def pairs(n: int, equal: int = 0) -> list[Pair]:
    return [Pair(str(i), "same" if i < equal else "ours", "same" if i < equal else "theirs") for i in range(n)]


def test_position_bias_is_the_share_of_verdicts_for_the_first_answer():
    found = [Verdicts("tie", "tie")] * 2 + [FLIPPED] * 6 + [WON] * 2
    row = win_rate.details(found, pairs(10, equal=2), [Reply("A", 10, 1)] * 16, [0.25] * 16, None)
    assert (row["pairs"], row["equal"], row["unreadable"]) == (10, 2, 0)
    assert row["first"]["value"] == (6 * 2 + 2 * 1) / 16 and row["first"]["n"] == 16 and row["first"]["clusters"] == 8
    assert row["ties"]["value"] == 0.8 and row["flips"]["value"] == 6 / 8
    assert (row["prompt_tokens"], row["completion_tokens"], row["cost"]) == (160, 16, 4.0)


def test_where_nothing_was_asked_nothing_is_said_of_the_judge():
    row = win_rate.details([Verdicts("tie", "tie")] * 3, pairs(3, equal=3), [], [], None)
    assert row["first"] is None and row["flips"] is None and row["ties"]["value"] == 1 and row["cost"] == 0
    assert "cost" not in win_rate.details([WON], pairs(1), [Reply("A", 1, 1)] * 2, [None, None], None)


# ---- people


def test_agreement_and_cohen_s_kappa():
    """The table of 50 grant applications by two readers, 20, 5, 10 and 15, of which kappa is 0.4."""
    table = {(1.0, 1.0): 20, (1.0, 0.0): 5, (0.0, 1.0): 10, (0.0, 0.0): 15}
    judge, people = zip(*(both for both, count in table.items() for _ in range(count)), strict=True)
    found = win_rate.agreement(list(judge), list(people))
    assert (found["agreement"]["value"], found["agreement"]["n"]) == (0.7, 50)
    assert found["kappa"]["value"] == pytest.approx(0.4)
    assert found["kappa"]["low"] < 0.4 < found["kappa"]["high"]
    ties = win_rate.agreement([*judge, 0.5, 0.5], [*people, 0.5, 1.0])
    assert ties["agreement"]["value"] == 36 / 52


def test_agreement_of_few_or_of_one_outcome():
    assert win_rate.agreement([], []) == {}
    same = win_rate.agreement([1.0] * 5, [1.0] * 5)
    assert same["agreement"]["value"] == 1 and "kappa" not in same  # nothing could be disagreed about
    assert win_rate.agreement([1.0, 0.0] * 5, [0.0, 1.0] * 5)["kappa"]["value"] == -1
