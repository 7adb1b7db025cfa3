"""Intervals as bars: a common axis with round ends, better on the right."""

import math

from posttrain.reports.intervals import difference_axis, round_numbers, tick_label, value_axis


def test_the_axis_of_values_holds_all_intervals_between_round_numbers():
    rows = [{"value": 4.7, "low": 3.7, "high": 5.7}, {"value": 5.1, "low": 4.1, "high": 6.0}]
    axis = value_axis("perplexity", rows)
    assert (axis.left, axis.right) == (3, 6)
    assert [label for _, label in axis.ticks] in (["3", "6"], ["3", "4", "5", "6"])
    assert axis.bar(4.5, 3.75, 5.25) == {"at": 50.0, "low": 25.0, "high": 75.0}


def test_a_share_is_in_percent_and_never_beyond_all():
    axis = value_axis("exact_match", [{"value": 0.93, "low": 0.88, "high": 0.97}])
    assert axis.right <= 1
    assert all(label.endswith("%") for _, label in axis.ticks)


def test_better_is_on_the_right_whichever_way_that_is():
    rows = [{"difference": -0.5, "low": -0.75, "high": -0.25}]
    lower, higher = (difference_axis("perplexity", rows, higher) for higher in (False, True))
    assert lower.bar(-0.5, -0.75, -0.25) == {"at": 75.0, "low": 62.5, "high": 87.5}
    assert higher.bar(-0.5, -0.75, -0.25) == {"at": 25.0, "low": 12.5, "high": 37.5}
    assert [label for _, label in lower.ticks] == ["+1", "0", "\N{MINUS SIGN}1"]
    assert lower.place(0) == higher.place(0) == 50


def test_nothing_and_infinity_have_an_axis_all_the_same():
    zero = {"difference": 0.0, "low": 0.0, "high": 0.0}
    axis = difference_axis("exact_match", [zero], True)
    assert axis.bar(0, 0, 0) == {"at": 50.0, "low": 50.0, "high": 50.0}
    endless = value_axis("perplexity", [{"value": math.inf, "low": 5.0, "high": math.inf}])
    assert endless.bar(math.inf, 5.0, math.inf) is None
    assert round_numbers(0, 0, 3)[0] == 0


def test_labels_are_short():
    assert [tick_label("exact_match", value, sign="+") for value in (-0.2, 0, 0.2)] == ["\N{MINUS SIGN}20", "0", "+20"]
    assert [tick_label("", value) for value in (0.00002, 2500)] == ["2e\N{MINUS SIGN}05", "2500"]
