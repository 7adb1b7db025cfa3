"""Error rates beside jiwer's own, and what counts as the same word."""

import jiwer
import numpy as np
import pytest

from posttrain.metrics.error_rates import cer, corpus_error_rate, normalised, wer
from posttrain.metrics.statistics import METRICS, summary

REFERENCES = ["one two three", "하나 둘 셋", "four", "일곱", ""]
OUTPUTS = ["one too three four", "하나 셋", "", "일곱", "five"]


def counts(function) -> np.ndarray:
    return np.array([function(*pair) for pair in zip(OUTPUTS, REFERENCES, strict=True)]).T


def test_a_corpus_is_scored_as_jiwer_has_it():
    heard, said = OUTPUTS[:-1], REFERENCES[:-1]
    assert corpus_error_rate(counts(wer)[:, :-1]) == pytest.approx(jiwer.wer(said, heard)) == pytest.approx(4 / 8)
    assert corpus_error_rate(counts(cer)[:, :-1]) == pytest.approx(jiwer.cer(said, heard))


def test_an_insertion_counts_where_nothing_was_said():
    assert wer("five", "") == [1.0, 0.0]
    assert corpus_error_rate(counts(wer)) == pytest.approx(5 / 8)
    assert corpus_error_rate(np.zeros((2, 3))) == 0


def test_a_resample_of_examples_sums_edits_and_words_and_not_rates():
    found = summary(METRICS["wer"], counts(wer))
    assert found["value"] == pytest.approx(5 / 8)
    assert found["low"] < 5 / 8 < found["high"]
    assert not METRICS["wer"].higher_is_better and not METRICS["cer"].share


def test_case_punctuation_and_blanks_are_no_errors():
    assert normalised("Don\u2019t  STOP, 하나!\n(①)") == "don't stop 하나 1"
    assert wer("One, TWO.", "one two") == [0.0, 2.0]
    assert cer("둘.", "두") == [1.0, 1.0]
