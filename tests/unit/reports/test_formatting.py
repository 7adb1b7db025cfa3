"""Numbers as people read them."""

import pytest

from posttrain.reports import formatting
from posttrain.reports.answer_differences import beginning

MINUS = "\N{MINUS SIGN}"


@pytest.mark.parametrize(
    ("number", "text"),
    [(3.13217, "3.13"), (12345.6, "12,346"), (-0.5, f"{MINUS}0.5"), (0, "0"), (-0.0, "0"), (9.2e-5, "9.2e-05"),
     (-1234567.0, f"{MINUS}1,234,567")],
)  # fmt: skip
def test_numbers_are_short(number, text):
    assert formatting.short(number) == text


@pytest.mark.parametrize(
    ("name", "value", "low", "high", "text"),
    [
        ("exact_match", 0.9321, 0.88, 0.96, "93% [88, 96]"),
        ("suite/exact_match", 0.9321, 0.928, 0.935, "93.2% [92.8, 93.5]"),
        ("exact_match", 0.0, 0.0, 0.004, "0.0% [0.0, 0.4]"),
        ("exact_match", 1.0, 1.0, 1.0, "100% [100, 100]"),
        ("perplexity", 5.1712, 4.17, 6.17, "5.2 [4.2, 6.2]"),
        ("perplexity", 500.8, 493.7, 509.4, "501 [494, 509]"),
        ("perplexity", 500.8, 500.8, 500.8, "501 [501, 501]"),
        ("perplexity", float("inf"), 5.0, float("inf"), "inf [5, inf]"),
        ("rougeL", 0.0, 0.0, 0.0, "0 [0, 0]"),
        ("rougeL", 0.38, 0.38, 0.38 + 1e-15, "0.380 [0.380, 0.380]"),
    ],
)
def test_a_value_has_the_digits_that_its_interval_leaves(name, value, low, high, text):
    row = {"value": value, "low": low, "high": high}
    assert f"{formatting.value(name, row)} {formatting.interval(name, row)}" == text


@pytest.mark.parametrize(
    ("name", "difference", "low", "high", "text"),
    [
        ("exact_match", 0.1234, 0.08, 0.16, "+12 points [8, 16]"),
        ("exact_match", 0.01, 0.0, 0.02, "+1 point [0, 2]"),
        ("exact_match", 0.06, 0.004, 0.13, "+6.0 points [0.4, 13.0]"),
        ("exact_match", 0.0, -0.37, 0.37, f"0 points [{MINUS}37, 37]"),
        ("perplexity", -0.5, -0.75, -0.25, f"{MINUS}0.50 [{MINUS}0.75, {MINUS}0.25]"),
        ("perplexity", -0.002, -0.003, -0.001, f"{MINUS}0.0020 [{MINUS}0.0030, {MINUS}0.0010]"),
        ("perplexity", 0.0, 0.0, 0.0, "0 [0, 0]"),
    ],
)
def test_a_difference_has_its_sign_and_never_an_end_that_only_reads_as_zero(name, difference, low, high, text):
    assert formatting.difference(name, {"difference": difference, "low": low, "high": high}) == text


def test_a_difference_that_could_be_shown_goes_either_way():
    assert formatting.detectable("exact_match", 0.3) == "would show ±30 points"
    assert formatting.detectable("perplexity", 0.41234) == "would show ±0.412"
    assert formatting.detectable("rougeL", 0.0) == "the same in every example"


def test_examples_are_counted_and_prompts_where_several_share_one():
    assert formatting.examples({"n": 120}) == formatting.examples({"n": 120, "clusters": 120}) == "n 120"
    assert formatting.examples({"n": 1060, "clusters": 20}) == "n 1,060 of 20 prompts"


def test_other_numbers():
    assert (formatting.p_value(0.0004), formatting.p_value(0.031)) == ("<0.001", "0.031")
    assert (formatting.energy(0.00088), formatting.energy(2.5)) == ("0.88 Wh", "2.5 kWh")
    assert [formatting.duration(seconds) for seconds in (4.23, 45, 720)] == ["4.2 s", "45 s", "12 min"]
    assert [formatting.percent(share) for share in (0, 0.0001, 0.125, 0.9999, 1)] == [
        "0%", "<0.1%", "12.5%", ">99.9%", "100%",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "character", ["\N{MAN}\u200d\N{WOMAN}", "\U0001f1f0\U0001f1f7", "e\N{COMBINING ACUTE ACCENT}", "\u1112\u1161\u11ab"]
)
def test_no_character_is_cut_in_half(character):
    assert beginning(f"a{character}b", 1 + len(character)) == f"a{character}…"
    assert beginning(f"a{character}b", len(character)) == "a…"
    assert beginning(f"a{character}", 1 + len(character)) == f"a{character}"
    assert len(beginning("e" + "\N{COMBINING ACUTE ACCENT}" * 99, 10)) == 11  # one character that is longer than all
