"""Answers side by side: the word differences, and which examples come first."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from posttrain.reports import answer_differences
from posttrain.reports.answer_differences import differences

TEXTS = ("suite", "dataset", "id", "prompt", "reference", "output")


@pytest.fixture(autouse=True)
def forgotten():
    """Other tests' files, which have the same names, are not remembered."""
    answer_differences.answers.cache_clear()


def write(name: str, *rows: dict) -> None:
    """Leave a model's examples; a row may leave out what it has in common with all."""
    path = Path(f"results/{name}/eval/examples.parquet")
    path.parent.mkdir(parents=True)
    common = {
        "suite": "",
        "dataset": "data",
        "prompt": "Why?",
        "reference": None,
        "format_followed": 0.0,
        "exact_match": 0.0,
    }
    schema = pa.schema(
        [(text, pa.string()) for text in TEXTS]
        + [("format_followed", pa.float64()), ("exact_match", pa.float64()), ("bleu", pa.list_(pa.float64()))]
    )
    pq.write_table(pa.Table.from_pylist([common | row for row in rows], schema=schema), path)


def run(verdicts: dict[str, str]) -> dict:
    against = {"base": {name: {"verdict": verdict} for name, verdict in verdicts.items()}}
    return {"name": "sft", "eval": {"metrics": dict.fromkeys([*verdicts, "perplexity", "bleu"]), "against": against}}


def test_words_that_are_new_and_gone_are_marked_and_the_rest_is_not():
    assert differences("I see two red apples.\nYes", "I see three apples.\nYes indeed") == [
        ("same", "I see "), ("del", "two red "), ("ins", "three "), ("same", "apples.\nYes "), ("ins", "indeed"),
    ]  # fmt: skip


def test_the_pieces_but_the_gone_ones_are_the_answer():
    before, after = "a b c\n\nd  e f", "a  x c d\ne g f h"
    assert "".join(text for kind, text in differences(before, after) if kind != "del").split() == after.split()


@pytest.mark.parametrize("before", ["", "quite other words than these", " \n"])
def test_where_hardly_a_word_is_the_same_nothing_is_marked(before):
    assert differences(before, "one two three") == [("same", "one two three")]


def test_the_first_examples_are_those_whose_score_changed_in_a_metric_with_a_verdict(in_folder):
    write("base", *({"id": id, "output": "no"} for id in ("same", "other", "exact", "format")), {"id": "none"})
    write("sft", {"id": "none"}, {"id": "same", "output": "no"}, {"id": "other", "output": "yes"},
          {"id": "exact", "output": "no", "exact_match": 1.0},
          {"id": "format", "output": "no", "format_followed": 1.0})  # fmt: skip
    found = answer_differences.examples(run({"exact_match": "no evidence", "format_followed": "better"}), ["base"], 9)
    assert [example["id"] for example in found] == ["format", "exact", "other", "same"]
    assert found[0]["changes"] == [("format_followed", 0.0, 1.0)]
    assert found[2]["changes"] == []
    assert [column["same"] for column in found[3]["columns"]] == [False, True]


def test_no_more_than_asked_for_and_base_parent_and_run_stand_in_this_order(in_folder):
    for name, output in (("base", "a b c d"), ("parent", "a b c"), ("sft", "a b")):
        write(name, *({"id": str(i), "output": output} for i in range(5)))
    trained = run({}) | {"eval": {"metrics": {}, "against": {}}}
    found = answer_differences.examples(trained, ["base", "parent"], 2)
    assert len(found) == 2
    assert [column["name"] for column in found[0]["columns"]] == ["base", "parent", "sft"]
    assert found[0]["columns"][2]["words"] == [("same", "a b"), ("del", "c")]


def test_a_score_of_another_suite_and_the_parts_of_a_corpus_metric_are_no_changes():
    before = {"suite": "", "exact_match": 0.0, "bleu": [1.0]}
    after = before | {"exact_match": 1.0, "bleu": [2.0]}
    assert answer_differences.changed(["safety/exact_match", "bleu", "perplexity"], before, after) == []
    assert answer_differences.changed(["exact_match"], before, after) == [("exact_match", 0.0, 1.0)]


def test_a_long_text_is_cut(in_folder):
    for name in ("base", "sft"):
        write(name, {"id": "1", "output": "word " * 1000, "prompt": "p" * 5000})
    (example,) = answer_differences.examples(run({}), ["base"], 9)
    assert len(example["prompt"]) == answer_differences.MAX_CHARACTERS + 1
    assert example["columns"][1]["words"][0][1].endswith("…")


def test_thoughts_stand_apart_and_are_not_compared(in_folder):
    write("base", {"id": "0", "output": "<think>\nOne.\n</think>\n\n24"}, {"id": "1", "output": "<think>Cut"})
    write("sft", {"id": "0", "output": "<think>\nTwo.\n</think>\n\n24"}, {"id": "1", "output": "25"})
    first, second = answer_differences.examples(run({}), ["base"], 2)
    assert [row["id"] for row in (first, second)] == ["1", "0"]  # another answer comes before the same one
    assert [column["thought"] for column in first["columns"]] == ["<think>Cut", ""]
    assert second["columns"][1] == {
        "name": "sft",
        "same": True,
        "thought": "<think>\nTwo.\n</think>",
        "words": [("same", "24")],
    }


@pytest.mark.parametrize("whole", ["e\u0301", "\U0001f469\u200d\U0001f680", "\U0001f44d\U0001f3fd"])
def test_no_character_is_cut_in_half(whole):
    for before in range(answer_differences.MAX_CHARACTERS - len(whole), answer_differences.MAX_CHARACTERS + 1):
        shown = answer_differences.beginning("x" * before + whole + "y" * 9)
        assert (
            shown
            == "x" * before
            + (whole if before + len(whole) <= answer_differences.MAX_CHARACTERS else "")
            + "y" * (answer_differences.MAX_CHARACTERS - before - len(whole))
            + "…"
        )
