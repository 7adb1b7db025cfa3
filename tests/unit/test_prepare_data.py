"""Splitting by content, dropping repeats, and the files that `prepare_data` leaves."""

import json
import re
from argparse import Namespace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import prepare_data
from posttrain.errors import UserError
from posttrain.rows import normalise
from posttrain.stage import sha256
from prepare_data import split, without_repeats


def rows(*prompts: str, completion: str = "a") -> list[dict]:
    return [
        normalise({"prompt": prompt, "completion": completion}, "prompt_completion", {}, "row") for prompt in prompts
    ]


def numbered(n: int) -> list[dict]:
    return rows(*(f"question {i}" for i in range(n)))


def test_a_row_never_moves_when_others_are_added_or_reordered():
    train, validation = split(numbered(100), 0.3)
    more_train, more_validation = split(list(reversed(numbered(300))), 0.3)
    ids = [{row["id"] for row in part} for part in (train, validation, more_train, more_validation)]
    assert ids[0] < ids[2]
    assert ids[1] < ids[3]
    assert len(ids[0]) + len(ids[1]) == 100


def test_a_larger_share_only_takes_rows_from_training():
    small, large = ({row["id"] for row in split(numbered(200), share)[1]} for share in (0.1, 0.4))
    assert small < large


def test_the_share_is_about_what_was_asked_for():
    assert len(split(numbered(2000), 0.2)[1]) == pytest.approx(400, abs=60)
    assert split(numbered(20), 0.0) == (numbered(20), [])


def test_rows_that_share_a_prompt_stay_on_one_side():
    prompts = [f"question {i}" for i in range(50)]
    train, validation = split(rows(*prompts) + rows(*prompts, completion="b"), 0.5)
    sides = [{row["messages"][0]["content"] for row in part} for part in (train, validation)]
    assert not sides[0] & sides[1]
    assert len(sides[0]) + len(sides[1]) == 50


A, B, C = rows("a", "b", "c")
REPEATS = [
    ([A, B], [C], [A, B], [C], 0, 0),
    ([A, A, B], [], [A, B], [], 1, 0),
    ([A, B], [B, C], [A], [B, C], 0, 1),
    ([A], [C, C, C], [A], [C], 2, 0),
    ([A, B, B], [B], [A], [B], 1, 1),
    ([A, A], [A, A], [], [A], 2, 1),
]


@pytest.mark.parametrize(("train", "validation", "kept", "held_out", "repeated", "shared"), REPEATS)
def test_repeats_and_shared_rows_are_dropped_from_training_and_counted(
    train, validation, kept, held_out, repeated, shared
):
    assert without_repeats(train, validation) == (kept, held_out, repeated, shared)
    assert len(train + validation) == len(kept + held_out) + repeated + shared


# ---- the script


def prepare(spec: dict) -> dict:
    Path("spec.json").write_text(json.dumps({"columns": {}, "format": None, "limit": None, "validation": 0.5} | spec))
    output = Path("results/data/rows")
    prepare_data.main(Namespace(spec=Path("spec.json"), output=output))
    return json.loads((output / "report.json").read_text())


def read(name: str) -> list[dict]:
    return pq.read_table(f"results/data/rows/{name}.parquet").to_pylist()


def jsonl(name: str, *texts: str) -> None:
    Path(name).write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))


def test_the_files_hold_every_row_once_and_the_report_counts_them(in_folder):
    jsonl("rows.jsonl", *"abcdefghij", "a", "b")
    report = prepare({"path": "rows.jsonl"})
    train, validation = read("train"), read("validation")
    assert sorted(row["text"] for row in train + validation) == list("abcdefghij")
    assert (report["rows"], report["train"], report["validation"]) == (12, len(train), len(validation))
    assert report["dropped"] == {"repeated": 2, "in_train_and_validation": 0}
    assert report["files"] == {"rows.jsonl": sha256(Path("rows.jsonl"))}


def test_a_file_of_held_out_rows_is_held_out_whole_and_never_trained_on(in_folder):
    jsonl("rows.jsonl", "a", "b", "c")
    jsonl("held_out.jsonl", "c", "d")
    report = prepare({"path": "rows.jsonl", "validation": "held_out.jsonl"})
    assert [row["text"] for row in read("train")] == ["a", "b"]
    assert [row["text"] for row in read("validation")] == ["c", "d"]
    assert report["dropped"] == {"repeated": 0, "in_train_and_validation": 1}
    assert set(report["files"]) == {"rows.jsonl", "held_out.jsonl"}


def test_the_limit_keeps_the_first_rows(in_folder):
    jsonl("rows.jsonl", "a", "b", "c")
    assert prepare({"path": "rows.jsonl", "validation": 0.0, "limit": 2})["rows"] == 2
    assert [row["text"] for row in read("train")] == ["a", "b"]


def test_no_held_out_rows_leave_an_empty_file_with_the_same_columns(in_folder):
    jsonl("rows.jsonl", "a")
    prepare({"path": "rows.jsonl", "validation": 0.0})
    schemas = [pq.read_schema(f"results/data/rows/{name}.parquet") for name in ("train", "validation")]
    assert schemas[0] == schemas[1]
    assert read("validation") == []


def test_nothing_left_to_train_on_is_one_sentence_and_leaves_nothing(in_folder):
    jsonl("rows.jsonl", "a")
    jsonl("held_out.jsonl", "a")
    with pytest.raises(UserError, match=re.escape("rows.jsonl: no row is left to train on; write more rows")):
        prepare({"path": "rows.jsonl", "validation": "held_out.jsonl"})
    assert not Path("results").exists()
