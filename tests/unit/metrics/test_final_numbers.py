"""The final number of an answer: strictly as GSM8K's own code reads it, and leniently."""

import re

import pytest

from posttrain.metrics.final_numbers import (
    MARKED,
    answer_format,
    final_number,
    read_number,
    strict_match,
    strict_number,
)

LENIENT = [
    ("48 + 24 = 72\n#### 72", 72),
    ("#### -3", -3),
    ("####5", 5),
    ("#### $1,234.50", 1234.5),
    ("#### 1,000,000", 1_000_000),
    ("#### 10\nSo it is 12.", 10),  # the marked number wins over a later one
    ("#### 10\nQuestion: and 5 more?\n#### 15", 10),  # the first, where an answer runs on into the next question
    ("#### **24** in 3 days", 24),
    ("#### **$1,024**", 1024),
    ("#### \N{MINUS SIGN}7, not 7", -7),
    ("So it is \N{MINUS SIGN}7", -7),
    ("The answer is 7.", 7),
    ("First 3, then 4, so 7 in all", 7),
    ("It costs $5", 5),
    ("0.5", 0.5),
    (".5", 0.5),
    ("-$3", -3),
    ("It takes 10-15 minutes", 15),  # a range
    ("no number at all", None),
    ("", None),
    ("#### none, but 4", 4),
]


@pytest.mark.parametrize(("text", "number"), LENIENT)
def test_read_leniently_it_is_the_first_marked_number_or_else_the_last(text, number):
    assert read_number(text) == number


STRICT = [
    ("48 + 24 = 72\n#### 72", 72),
    ("#### -3", -3),
    ("#### 1,000,000.50 clips", 1_000_000.5),
    ("#### 10\nQuestion: and 5 more?\n#### 15", 10),
    ("#### 72.", 72),
    ("####5", None),
    ("#### $5", None),
    ("#### **24**", None),
    ("The answer is 7.", None),
    ("#### ,", None),
    ("#### 1.2.3", None),
    ("", None),
]


@pytest.mark.parametrize(("text", "number"), STRICT)
def test_read_strictly_it_is_what_gsm8k_s_own_code_finds(text, number):
    assert strict_number(text) == number
    own = re.compile(r"#### (\-?[0-9\.\,]+)").search(text)  # of its dataset.py
    assert number is None or float(own.group(1).strip().replace(",", "")) == number


@pytest.mark.parametrize(
    ("answer", "strict", "lenient"),
    [
        ("#### 72", 1, 1),
        ("It is 72", 0, 1),
        ("#### **72**", 0, 1),
        ("#### 71\n#### 72", 0, 0),
        ("#### 72.0\n#### 71", 1, 1),
        ("no number", 0, 0),
    ],
)
def test_an_answer_is_right_by_each_reading(answer, strict, lenient):
    assert (strict_match(answer, "so\n#### 72"), final_number(answer, "so\n#### 72")) == (strict, lenient)


def test_nothing_is_no_right_answer():
    assert strict_match("no number", "none") == final_number("no number", "none") == 0


def test_numbers_are_equal_however_they_are_written():
    assert final_number("#### 1,000", "#### $1000.00") == strict_match("#### 1,000", "#### $1000.00") == 1


@pytest.mark.parametrize(
    ("text", "followed"), [("#### 72", 1), ("####72", 1), ("72", 0), ("### 72", 0), ("#### x", 0), ("", 0)]
)
def test_the_format_is_the_mark_before_a_number(text, followed):
    assert answer_format(text, "#### 8") == float(MARKED.search(text) is not None) == followed
