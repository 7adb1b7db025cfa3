"""What the preflight counts and shows of tokens and rows."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import write_rows

from posttrain.data.tokens import tokenise
from posttrain.preflight import token_scan
from posttrain.preflight.context import load_tokenizer
from tokenize_data import schema


@pytest.fixture(scope="module")
def tokenizer(random_tiny_folder):
    return load_tokenizer(random_tiny_folder)


def write(rows: list[dict], shape: str = "messages", **options) -> Path:
    path = Path("tokens.parquet")
    rows = [
        {"id": str(i), "length": max(map(len, filter(lambda v: isinstance(v, list), row.values())))} | row
        for i, row in enumerate(rows)
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=schema(shape)), path, **options)
    return path


def test_rows_are_measured_the_same_however_they_are_batched(in_folder, chats, tokenizer, monkeypatch):
    rows, _ = tokenise(tokenizer, chats * 3, "messages", 50)
    path = write(rows, row_group_size=5)
    whole = token_scan.scan(path, tokenizer, [tokenizer.eos_token_id], 50)
    monkeypatch.setattr(token_scan, "BATCH", 2)
    parts = token_scan.scan(path, tokenizer, [tokenizer.eos_token_id], 50)
    for one, other in zip(whole[:3], parts[:3], strict=True):
        assert np.array_equal(one, other)
    for one, other in zip(whole.sides["labels"], parts.sides["labels"], strict=True):
        assert np.array_equal(one, other)
    labels = whole.sides["labels"]
    assert labels.trained.tolist() == [sum(label != -100 for label in row["labels"]) for row in rows]
    assert labels.cut.tolist() == [row["length"] == 50 for row in rows]
    assert labels.stopped.tolist() == [tokenizer.eos_token_id in row["labels"] for row in rows]


def test_only_equal_ids_have_equal_digests(in_folder, tokenizer):
    lists = [[1, 2, 3], [3, 2, 1], [1, 2], [1, 2, 3, 0], [0, 1, 2, 3], [2, 1, 3], [1, 2, 3]]
    path = write([{"input_ids": ids, "labels": ids} for ids in lists])
    digest = token_scan.scan(path, tokenizer, [9], 99).digest
    assert digest[0] == digest[6]
    assert len(set(digest.tolist())) == 6


def test_a_pair_is_told_from_one_with_its_answers_changed_over(in_folder, tokenizer):
    pair = {"prompt_ids": [1], "chosen_ids": [2, 9], "rejected_ids": [3, 9]}
    other = pair | {"chosen_ids": [3, 9], "rejected_ids": [2, 9]}
    measured = token_scan.scan(write([pair, other], "preference"), tokenizer, [9], 3)
    assert measured.digest[0] != measured.digest[1]
    assert measured.sides["chosen_ids"].digest[0] == measured.sides["rejected_ids"].digest[1]
    assert measured.sides["chosen_ids"].cut.all()  # as long as it may be, with its prompt


def test_a_sample_is_evenly_spaced_and_has_no_null_fields(in_folder, chats, monkeypatch):
    monkeypatch.setattr(token_scan, "BATCH", 3)
    rows = [row | {"place": str(i)} for i, row in enumerate(chats * 5)]
    write_rows(Path("rows.parquet"), rows)
    assert [row["place"] for row in token_scan.sample(Path("rows.parquet"), 4)] == ["0", "5", "10", "15"]
    sample = token_scan.sample(Path("rows.parquet"), 99)
    assert len(sample) == 20
    assert sample[0]["messages"] == chats[0]["messages"]
    assert token_scan.row(Path("rows.parquet"), 13)["place"] == "13"
    assert token_scan.place(Path("rows.parquet"), chats[2]["id"]) == "2"
    assert (
        token_scan.place(Path("rows.parquet"), f"{chats[2]['id']}.1") == "2, answer 2"
    )  # a template that rewrites turns


def test_trained_text_stands_between_brackets_and_long_pieces_lose_their_middle(tokenizer):
    ids = tokenizer("question answer question again")["input_ids"]
    half = len(ids) // 2
    labels = [-100] * half + ids[half:]
    text = token_scan.marked(tokenizer, {"input_ids": ids, "labels": labels})
    assert text == tokenizer.decode(ids[:half]) + "⟦" + tokenizer.decode(ids[half:]) + "⟧"
    long = tokenizer("word " * 500)["input_ids"]
    text = token_scan.marked(tokenizer, {"input_ids": long, "labels": long})
    assert text.startswith("⟦word word")
    assert text.endswith("word ⟧")
    assert "[… 1900 characters …]" in text
