"""Pairs of GSM8K: one step of a right solution broken, and the error carried on to the end."""

import json
import random
import re
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]
make_gsm8k = SimpleNamespace(**runpy.run_path(str(REPOSITORY / "examples/make_gsm8k.py")))

ROW = {
    "question": "Natalia sold 48 clips in April and half as many in May. How many?",
    "answer": "She sold 48/2 = <<48/2=24>>24 clips in May.\nThat is 48+24 = <<48+24=72>>72 clips.\n#### 72",
}


def test_the_calculators_annotations_are_taken_out():
    assert make_gsm8k.plain(ROW["answer"]) == "She sold 48/2 = 24 clips in May.\nThat is 48+24 = 72 clips.\n#### 72"
    assert make_gsm8k.solution(ROW) == {"question": ROW["question"], "answer": make_gsm8k.plain(ROW["answer"])}


def test_a_pair_differs_in_numbers_only_and_is_wrong_from_one_step_on():
    pair = make_gsm8k.pair(ROW)
    assert pair["chosen"] == make_gsm8k.plain(ROW["answer"])
    assert pair["rejected"] != pair["chosen"]
    assert re.sub(r"\d+", "N", pair["rejected"]) == re.sub(r"\d+", "N", pair["chosen"])


def test_the_wrong_result_replaces_every_later_use_and_no_part_of_another_number():
    answer = "It is <<2+3=5>>5, so 5 times 15 is <<5*15=75>>75, or 5.5 and 1,5 or 5.\n#### 75"
    results = {make_gsm8k.broken({"question": str(seed), "answer": answer}) for seed in range(60)}
    first = [text for text in results if "15 is 75" in text]  # the first step is the broken one
    assert first
    for text in first:
        wrong = re.match(r"It is (\d+), so", text)[1]
        assert wrong != "5"
        assert text == f"It is {wrong}, so {wrong} times 15 is 75, or 5.5 and 1,5 or {wrong}.\n#### 75"


def test_breaking_is_the_same_every_time():
    assert make_gsm8k.broken(ROW) == make_gsm8k.broken(dict(ROW))


def test_an_answer_without_steps_cannot_be_broken():
    assert make_gsm8k.broken({"question": "q", "answer": "None at all.\n#### 3"}) is None


def test_a_step_without_a_result_cannot_be_broken():
    assert make_gsm8k.broken({"question": "q", "answer": "Take <<5=>>5.\n#### 5"}) is None


@pytest.mark.parametrize("right", ["0", "1", "2", "10", "72", "1,000", "2.5", "0.75", "100.25"])
def test_a_wrong_number_is_another_number_of_the_same_kind(right):
    for seed in range(50):
        wrong = make_gsm8k.wrong_number(right, random.Random(seed))
        assert float(wrong) != float(right.replace(",", ""))
        assert ("." in wrong) <= ("." in right)
        assert "." in right or int(wrong) > 0


def test_only_short_problems_that_can_be_broken_are_taken(tmp_path):
    rows = [ROW, ROW | {"question": "q" * 400}, {"question": "q", "answer": "#### 3"}]
    (tmp_path / "gsm8k.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert make_gsm8k.short(tmp_path / "gsm8k.jsonl") == [ROW]


def examples(name: str) -> list[dict]:
    return [json.loads(line) for line in (REPOSITORY / f"examples/data/{name}.jsonl").read_text().splitlines()]


def test_the_examples_train_on_no_question_that_they_test_and_on_none_twice():
    asked = {
        name: [row["question"] for row in examples(name)]
        for name in ("gsm8k_train", "gsm8k_pairs", "gsm8k_test", "gsm8k_pairs_test")
    }
    assert asked["gsm8k_test"] == asked["gsm8k_pairs_test"]
    trained = asked["gsm8k_train"] + asked["gsm8k_pairs"]
    assert (
        len(trained + asked["gsm8k_test"])
        == len({*trained, *asked["gsm8k_test"]})
        == make_gsm8k.TRAIN + make_gsm8k.PAIRS + make_gsm8k.TEST
    )


@pytest.mark.parametrize("name", ["gsm8k_pairs", "gsm8k_pairs_test"])
def test_the_examples_pairs_differ_and_hold_no_annotation(name):
    for row in examples(name):
        assert row["chosen"] != row["rejected"]
        assert "<<" not in row["chosen"] + row["rejected"]
