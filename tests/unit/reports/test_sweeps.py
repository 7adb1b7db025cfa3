"""Settings and seeds, the two errors of a difference, the corrected verdicts, and the sentences."""

import numpy as np
import pytest
from scipy import stats

from posttrain.metrics.paired import Comparison, Error, Measured, compare, comparison, measure
from posttrain.metrics.statistics import METRICS, size
from posttrain.reports.formatting import listed
from posttrain.reports.overruled import Overruled
from posttrain.reports.sweep_sentences import answer, sentences
from posttrain.reports.sweeps import Sweep, by_cost, compare_all, front, label, settings, summary, swept

PERPLEXITY, ACCURACY = METRICS["perplexity"], METRICS["exact_match"]

# ---- settings


def test_points_that_differ_in_the_seed_alone_are_one_setting():
    points = [(f"dpo,rank={r},seed={s}", {"rank": r, "seed": s}) for s in (1, 2) for r in (4, 8)]
    four, eight = settings(points)
    assert (four.overrides, four.runs, four.seeds) == ({"rank": 4}, ("dpo,rank=4,seed=1", "dpo,rank=4,seed=2"), (1, 2))
    assert eight.overrides == {"rank": 8}


def test_a_sweep_of_seeds_alone_is_one_setting():
    (only,) = found = settings([("dpo,seed=1", {"seed": 1}), ("dpo,seed=2", {"seed": 2})])
    assert only.seeds == (1, 2)
    assert (swept(found), label(only, [])) == ([], "as configured")


def test_a_setting_is_named_by_what_differs():
    found = settings(
        [("a", {"rank": 4, "learning_rate": 1e-4, "beta": 0.1}), ("b", {"rank": 8, "learning_rate": 1e-4})]
    )
    assert swept(found) == ["rank", "beta"]
    assert [label(one, swept(found)) for one in found] == ["rank=4,beta=0.1", "rank=8"]


def ranks(*values, seeds: int = 1) -> list:
    return settings([(f"dpo,rank={v},seed={s}", {"rank": v, "seed": s}) for v in values for s in range(seeds)])


COSTS = [
    ([16, 4, 8], [100.0, 50.0, 70.0], [1, 2, 0]),
    ([16, 4, 8], [60.0, 61.0, 62.0], [1, 2, 0]),  # about the same work: the smaller value
    ([16, 4, 8], [60.0, 61.0, 10.0], [2, 1, 0]),
    (["1e-3", "1e-4"], [9.0, 9.0], [1, 0]),  # YAML's text is a number as well
    (["lora", "full"], [9.0, 9.0], [0, 1]),  # what has no order keeps its own
    ([4, 8], [0.0, 0.0], [0, 1]),
]


@pytest.mark.parametrize(("values", "work", "order"), COSTS)
def test_cheaper_is_less_work_and_of_about_the_same_the_smaller_value(values, work, order):
    assert by_cost(ranks(*values), work) == order


@pytest.mark.parametrize(
    ("costs", "values", "higher", "found"),
    [
        ([1, 2, 3], [0.5, 0.7, 0.6], True, [0, 1]),
        ([1, 2, 3], [0.5, 0.7, 0.4], False, [0, 2]),
        ([3, 1, 2], [0.9, 0.1, 0.5], True, [1, 2, 0]),
        ([1, 1, 2], [0.5, 0.6, 0.6], True, [1]),
        ([2, 2], [0.5, 0.5], True, [0, 1]),
    ],
)
def test_the_front_holds_what_nothing_beats_in_cost_and_value(costs, values, higher, found):
    assert front(costs, values, higher) == found


# ---- the error of a difference


def test_with_one_training_p_is_the_t_tests_over_examples():
    assert Error(0.5, 19).beyond(-1.2) == pytest.approx(2 * stats.t.sf(2.4, 19))


def test_where_examples_say_the_same_p_is_students_two_sample_test_over_trainings():
    ours, theirs = np.array([3.1, 3.2, 3.15]), np.array([3.3, 3.32])
    columns, same = np.zeros((2, 50)), np.zeros(50)
    row = compare(
        PERPLEXITY, Measured(ours, same, same, columns, None), Measured(theirs, same, same, columns + 1, None)
    )
    assert row.p == pytest.approx(stats.ttest_ind(ours, theirs).pvalue, rel=1e-3)


@pytest.mark.parametrize(("examples", "trainings"), [(1.0, 1.0), (1.0, 0.1), (0.1, 1.0), (1.0, 1e-3)])
@pytest.mark.parametrize("df", [2, 4])
def test_both_errors_add_as_two_t_variables(examples, trainings, df):
    random = np.random.default_rng(0)
    drawn = examples * random.standard_t(19, 200_000) + trainings * random.standard_t(df, 200_000)
    error = Error(examples, 19, trainings, df)
    for difference in (0.5, 2.0, 4.0):
        assert error.beyond(difference) == pytest.approx((abs(drawn) > difference).mean(), rel=0.05, abs=6e-4)


def test_an_interval_is_as_wide_as_the_difference_that_p_allows():
    error = Error(0.2, 19, 0.1, 2)
    assert error.beyond(error.width(0.01)) == pytest.approx(0.01, rel=1e-4)
    assert Error(0.2, 19).width() == pytest.approx(0.2 * stats.t.isf(0.025, 19))
    assert Error(0.0, 19).width() == 0


def test_the_detectable_difference_is_found_four_times_of_five():
    error = Error(1.0, 400)
    found = stats.norm.sf(error.width(0.01) - error.detectable(0.01))
    assert found == pytest.approx(0.8, abs=0.005)


def losses(mean: float, trainings: list[float], n: int = 100, seed: int = 0) -> list[np.ndarray]:
    """Log-probabilities and tokens of the trainings of one setting, which are shifted by so much."""
    examples, own = np.random.default_rng(99), np.random.default_rng(seed)
    tokens = examples.integers(20, 60, n).astype(float)
    loss = mean + 0.4 * examples.standard_normal(n) + 0.05 * own.standard_normal((len(trainings), n))
    return [np.array([-(loss[k] + shift) * tokens, tokens]) for k, shift in enumerate(trainings)]


def compared(ours: list[np.ndarray], theirs: list[np.ndarray], metric=PERPLEXITY) -> Comparison:
    return compare(metric, measure(metric, ours), measure(metric, theirs))


def test_one_training_finds_what_a_spread_between_trainings_explains():
    assert compared(losses(1.0, [0.0]), losses(1.1, [0.0], seed=1)).p < 0.001
    assert compared(losses(1.0, [-0.08, 0.08]), losses(1.1, [-0.08, 0.08], seed=1)).p > 0.1


def test_two_seeds_find_a_difference_far_beyond_their_spread():
    assert compared(losses(1.0, [0.0, 0.005]), losses(1.4, [0.0, 0.005], seed=1)).p < 0.002


def test_more_seeds_find_more():
    spread = [-0.02, 0.02]
    few, more = (compared(losses(1.0, spread * k), losses(1.1, spread * k, seed=1)).p for k in (1, 3))
    assert more < few / 10


def test_a_setting_trained_once_borrows_the_spread_of_the_other():
    row = compared(losses(1.0, [0.0]), losses(1.1, [-0.05, 0.05, 0.0], seed=1))
    assert row.error.trainings_df == 2
    assert (
        row.error.trainings > compared(losses(1.0, [-0.05, 0.05, 0.0]), losses(1.1, [-0.05, 0.05, 0.0])).error.trainings
    )


def answers(*right: int, n: int = 20) -> list[np.ndarray]:
    """Right and wrong of trainings that get the first so many right."""
    return [np.array([[1.0] * count + [0.0] * (n - count)]) for count in right]


def test_right_and_wrong_of_two_single_trainings_is_mcnemars_test():
    ours, theirs = answers(12), answers(4)
    assert compared(ours, theirs, ACCURACY).p == pytest.approx(2 / 2**8)


@pytest.mark.parametrize("metric", ["perplexity", "exact_match"])
def test_a_sweep_of_one_comparison_says_what_an_evaluation_of_the_two_says(metric):
    random, clusters = np.random.default_rng(0), np.repeat(np.arange(12), 3)
    if metric == "perplexity":
        one, other = (losses(1.0 + shift, [0.0], n=36, seed=seed)[0] for shift, seed in ((0.0, 0), (0.02, 1)))
    else:
        one, other = ((random.random((1, 36)) < share) * 1.0 for share in (0.3, 0.7))
    found = [measure(METRICS[metric], [side], clusters) for side in (one, other)]
    (row,) = compare_all({metric: METRICS[metric]}, {metric: found}).values()
    assert row == comparison(METRICS[metric], other, one, clusters)


def test_few_examples_that_differ_are_no_evidence_however_many_trainings_agree():
    assert compared(answers(5, 5, 5, n=200), answers(0, 0, 0, n=200), ACCURACY).p == pytest.approx(0.5**4)


def test_the_same_answers_are_no_difference():
    row = compared(answers(5, 5), answers(5, 5), ACCURACY)
    assert (row.difference, row.p, row.differing) == (0, 1, 0)


# ---- a setting's value


FIRST = {"value": 0.4, "low": 0.3, "high": 0.5, "n": 20}


def test_one_training_keeps_its_interval_and_has_no_spread():
    row = summary(ACCURACY, measure(ACCURACY, answers(8)), FIRST)
    assert row == FIRST | {"trainings": [0.4], "sd": None}


def test_a_value_is_the_mean_of_its_trainings_with_both_errors():
    row = summary(ACCURACY, measure(ACCURACY, answers(8, 10, 12)), FIRST)
    assert (row["value"], row["trainings"]) == (pytest.approx(0.5), [0.4, 0.5, 0.6])
    assert row["sd"] == pytest.approx(0.1)
    assert row["low"] < 0.5 - 0.1 * stats.t.isf(0.025, 2) / np.sqrt(3)


def test_a_share_stays_between_0_and_1():
    row = summary(ACCURACY, measure(ACCURACY, answers(0, 2)), FIRST)
    assert row["low"] == 0
    row = summary(ACCURACY, measure(ACCURACY, answers(0, 0)), FIRST | {"low": 0.0, "high": 0.168})
    assert (row["value"], row["low"], row["high"]) == (0, 0, 0.168)


# ---- verdicts


def test_every_pair_is_compared_and_corrected_for_their_number():
    measured = {"exact_match": [measure(ACCURACY, answers(right)) for right in (2, 9, 2)]}
    rows = compare_all({"exact_match": ACCURACY}, measured)
    assert list(rows) == [("exact_match", 0, 1), ("exact_match", 0, 2), ("exact_match", 1, 2)]
    assert rows["exact_match", 0, 1]["p"] == pytest.approx(3 / 2**6)
    assert [row["verdict"] for row in rows.values()] == ["better", "no evidence", "worse"]


def test_what_could_have_been_shown_counts_the_correction():
    def detectable(settings: int, metric=ACCURACY) -> float:
        columns = answers(8) if metric is ACCURACY else losses(1.0, [0.0])
        measured = [measure(metric, columns)] * (settings - 1) + [measure(metric, losses(1, [0.0], seed=3))]
        measured = measured if metric is PERPLEXITY else [measure(metric, columns)] * settings
        return compare_all({"m": metric}, {"m": measured})["m", 0, settings - 1]["detectable"]

    for metric in (ACCURACY, PERPLEXITY):
        assert detectable(2, metric) < detectable(3, metric) < detectable(5, metric)


def test_too_few_examples_could_have_shown_nothing():
    measured = {"m": [measure(ACCURACY, answers(2, n=5))] * 2}
    assert compare_all({"m": ACCURACY}, measured)["m", 0, 1]["detectable"] is None


def test_equally_good_settings_seldom_get_a_verdict():
    random = np.random.default_rng(5)
    alarms = 0
    for _ in range(20):
        found = [
            measure(PERPLEXITY, losses(1.0, list(0.05 * random.standard_normal(3)), 30, seed=s)) for s in (1, 2, 3)
        ]
        alarms += any(row["verdict"] != "no evidence" for row in compare_all({"m": PERPLEXITY}, {"m": found}).values())
    assert alarms <= 4  # 20 times 5 % is 1; more than 4 by chance 0.3 %


# ---- what a person would say


def sweep(found: list, wins: dict[str, list[tuple[int, int]]], work: list[float], trainings: int = 1) -> Sweep:
    """A sweep in which, by metric, the first of each pair of positions is better than the second by a tenth."""
    metrics = {name: METRICS[name] for name in wins}
    values = {
        name: [
            {"value": 0.5, "n": 20, "sd": None, "trainings": [0.5 + 0.02 * k for k in range(trainings)]} for _ in found
        ]
        for name in wins
    }
    rows = {}
    for name, pairs in wins.items():
        for i in range(len(found)):
            for j in range(i + 1, len(found)):
                row = {
                    "difference": 0.1,
                    "low": 0.0,
                    "high": 0.2,
                    "p": 0.5,
                    "verdict": "no evidence",
                    "detectable": 0.4,
                }
                if (j, i) in pairs or (i, j) in pairs:
                    row["verdict"] = "better" if (j, i) in pairs else "worse"
                rows[name, i, j] = row
    costs = [amount * 1e12 for amount in work]
    return Sweep("rank", found, metrics, values, rows, costs, [9.0] * len(found), [1.0] * len(found))


def key(name: str, *values) -> list:
    return settings([(f"dpo,{name}={value}", {name: value}) for value in values])


UP = [10.0, 20.0, 30.0]
SENTENCES = [
    (
        key("rank", 4, 8, 16), [],
        "rank 4 is enough: no evidence that 8 or 16 is better in perplexity (20 examples could have shown 0.4).",
    ),
    (
        key("rank", 4, 8, 16), [(1, 0), (2, 0)],
        "rank 8 is enough: no evidence that 16 is better in perplexity (20 examples could have shown 0.4); "
        "it is better than 4 (by 0.1).",
    ),
    (key("rank", 4, 8, 16), [(2, 0), (2, 1)], "rank 16 is better than 4 and 8 in perplexity (by 0.1)."),
    (
        key("rank", 4, 8, 16), [(0, 2)],
        "rank 4 is enough: no evidence that 8 is better in perplexity (20 examples could have shown 0.4); "
        "it is better than 16 (by 0.1).",
    ),
    (  # what is cheaper is beaten by another than the chosen
        key("rank", 4, 8, 16), [(2, 0)],
        "rank 8 is enough: no evidence that 16 is better in perplexity (20 examples could have shown 0.4); "
        "4 is worse than 16 (by 0.1).",
    ),
    (
        key("learning_rate", 1e-5, 1e-4), [(1, 0)],
        "learning_rate 0.0001 is better than 1e-05 in perplexity (by 0.1).",
    ),
    (
        key("learning_rate", 1e-5, 1e-4), [],
        "learning_rate 1e-05 will do: no evidence that 0.0001 is better in perplexity (20 examples could have shown 0.4).",
    ),
    (
        key("method", "lora", "full"), [],
        "method lora will do: no evidence that full is better in perplexity (20 examples could have shown 0.4).",
    ),
    (
        settings([("a", {"rank": 4, "beta": 0.1}), ("b", {"rank": 8, "beta": 0.5})]), [(1, 0)],
        "rank=8,beta=0.5 is better than rank=4,beta=0.1 in perplexity (by 0.1).",
    ),
    (
        key("rank", 1, 2, 4, 8, 16), [],
        "rank 1 is enough: no evidence that any other setting is better in perplexity (20 examples could have shown 0.4).",
    ),
    (
        key("rank", 1, 2, 4, 8, 16), [(4, 0), (4, 1), (4, 2), (4, 3)],
        "rank 16 is better than every other setting in perplexity (by 0.1).",
    ),
    (
        key("rank", 1, 2, 4, 8, 16, 32), [(1, 0)],
        "rank 2 is enough: no evidence that any of 4 others is better in perplexity (20 examples could have shown 0.4); "
        "it is better than 1 (by 0.1).",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("found", "wins", "said"), SENTENCES)
def test_the_sentence_of_a_metric(found, wins, said):
    assert sentences(sweep(found, {"perplexity": wins}, [10.0 * (i + 1) for i in range(len(found))])) == [said]


def test_a_larger_rank_that_trains_faster_is_not_called_enough():
    said = sentences(sweep(key("rank", 16, 4), {"perplexity": []}, [10.0, 20.0]))
    assert said[0].startswith("rank 16 will do: no evidence that 4 is better")


def test_metrics_without_evidence_share_a_sentence():
    said = sentences(sweep(key("rank", 4, 8), {"perplexity": [], "exact_match": [], "reward_accuracy": []}, UP[:2]))
    assert said == [
        "rank 4 is enough: no evidence that 8 is better in perplexity (20 examples could have shown 0.4), "
        "exact_match (40 points) and reward_accuracy (40 points)."
    ]


def test_the_basis_is_said_again_where_it_changes_and_too_few_are_said_to_be():
    found = sweep(ranks(4, 8, seeds=3), {"perplexity": [], "exact_match": []}, UP[:2], trainings=3)
    found.values["exact_match"][0]["n"] = 5
    found.rows["exact_match", 0, 1]["detectable"] = None
    said, few = sentences(found)
    assert said.endswith("in perplexity (20 examples and 3 trainings of each could have shown 0.4).")
    assert few == "5 examples are too few to show a difference in exact_match."


def test_the_setting_to_take_is_the_cheapest_that_nothing_beats_in_any_metric():
    first, *_ = answer(sweep(key("rank", 4, 8, 16), {"perplexity": [(1, 0)], "exact_match": []}, UP))
    assert first == (
        "Take rank 8 (20 TFLOP of training, 1 GiB): the cheapest of the settings that no other is shown to beat in perplexity or "
        "exact_match."
    )


def test_where_nothing_is_shown_nothing_is_advised():
    first, *_ = answer(sweep(key("rank", 4, 8), {"perplexity": [], "exact_match": []}, UP[:2]))
    assert first == (
        "No setting is shown to be better than another in perplexity or exact_match; the cheapest is rank 4 (10 TFLOP of "
        "training, 1 GiB)."
    )


def test_where_nothing_could_be_shown_nothing_is_said_of_the_settings():
    found = sweep(key("rank", 4, 8), {"perplexity": [], "exact_match": [], "chrf": []}, [10.0, 10.0])
    for row in found.rows.values():
        row["detectable"] = None
    for name, n, clusters in (("perplexity", 6, 6), ("exact_match", 6, 6), ("chrf", 40, 4)):
        found.values[name][0] |= {"n": n, "clusters": clusters}
    first, *rest = answer(found)
    assert first == (
        "No setting is recommended: 6 examples are too few to show a difference in perplexity and exact_match; 40 examples of 4 "
        "prompts are too few to show a difference in chrf. Hold out more rows."
    )
    assert len(rest) == 1 and "seed" in rest[0]
    assert sentences(found) == []


def test_examples_that_are_enough_for_one_comparison_may_be_too_few_among_many():
    found = sweep(key("rank", 4, 8), {"perplexity": []}, UP[:2])
    found.rows["perplexity", 0, 1]["detectable"] = None
    assert answer(found)[0].startswith(
        "No setting is recommended: 20 examples are too few to show a difference in perplexity in so many comparisons."
    )


def test_an_overruled_check_is_said_after_the_setting_to_take():
    one = Overruled("overlap", "dpo,rank=4", "3 rows are in both")
    found = sweep(key("rank", 4, 8), {"perplexity": [(1, 0)]}, UP[:2])
    found = found._replace(overruled=((one,), (one._replace(run="dpo,rank=8"),)))
    assert answer(found)[1] == "The check overlap was overruled for dpo,rank=4, dpo,rank=8: 3 rows are in both."
    assert (found.touched(0, 1), found._replace(overruled=()).touched(0, 1)) == ("overlap", "")


def test_where_metrics_disagree_each_has_its_setting():
    first, *_ = answer(sweep(key("rank", 4, 8), {"perplexity": [(1, 0)], "exact_match": [(0, 1)]}, UP[:2]))
    assert first == "No setting will do for every metric: take rank 8 in perplexity; rank 4 in exact_match."


def test_one_training_of_each_says_that_the_spread_is_unknown():
    *_, last = answer(sweep(key("rank", 4, 8), {"perplexity": []}, UP[:2]))
    assert last == (
        "Each setting was trained once, so the spread between trainings is unknown: add seed: [1, 2, 3] to the sweep."
    )


def test_work_that_is_about_the_same_is_said_to_be():
    assert "Every setting takes about as much work to train, so the smaller value counts as cheaper." in answer(
        sweep(key("rank", 4, 8), {"perplexity": []}, [10.0, 10.5])
    )


def test_seeds_say_how_far_trainings_differ():
    found = sweep(ranks(4, 8, seeds=3), {"perplexity": [], "exact_match": []}, UP[:2], trainings=3)
    assert answer(found)[-1] == (
        "Seed: trainings of one setting differ by up to 0.04 in perplexity and 4 points in exact_match."
    )
    alone = sweep(settings([(f"dpo,seed={s}", {"seed": s}) for s in range(3)]), {"perplexity": []}, [9.0], trainings=3)
    assert answer(alone) == ["Seed: three trainings differ by 0.04 in perplexity."]
    same = sweep(ranks(4, seeds=2), {"perplexity": []}, [9.0], trainings=1)
    assert answer(same) == ["Seed: two trainings do not differ in any metric."]


@pytest.mark.parametrize(
    ("metric", "difference", "said"),
    [
        (PERPLEXITY, -0.4123, "0.41"),
        (ACCURACY, 0.12, "12 points"),
        (ACCURACY, 0.01, "1 point"),
        (ACCURACY, 0.0035, "0.35 points"),
        (ACCURACY, 1.0, "100 points"),
        (ACCURACY, 0.0, "0 points"),
    ],
)
def test_a_difference_is_said_in_points_of_a_share(metric, difference, said):
    assert size(metric, difference) == said


def test_a_list_in_a_sentence():
    assert [listed("a"), listed("ab"), listed("abc", "or")] == ["a", "a and b", "a, b or c"]
