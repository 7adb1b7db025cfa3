"""The files that `tokenize_data` leaves, and its warnings."""

from argparse import Namespace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import tokenize_data
from posttrain import stage
from posttrain.errors import UserError
from posttrain.rows import normalise
from prepare_data import write_parquet


@pytest.fixture
def tokenised(in_folder, chats, random_tiny_folder):
    """Tokenise the conversations, one of them held out; returns the report."""

    def run(max_length: int) -> dict:
        write_parquet(Path("data/train.parquet"), chats[1:])
        write_parquet(Path("data/validation.parquet"), chats[:1])
        stage.write_json(Path("data/report.json"), {"format": "prompt_completion"})
        options = {
            "data": Path("data"),
            "model": random_tiny_folder,
            "max_length": max_length,
            "output": Path("tokens/chats,x"),
        }
        tokenize_data.main(Namespace(**options))
        return stage.read_json(Path("tokens/chats,x/report.json"))

    return run


def test_both_files_have_one_row_of_tokens_for_each_row(tokenised, chats):
    report = tokenised(256)
    train, validation = (pq.read_table(f"tokens/chats,x/{name}.parquet") for name in ("train", "validation"))
    assert train.schema.equals(validation.schema)
    assert train["id"].to_pylist() == [row["id"] for row in chats[1:]]
    assert report["train"]["rows"] == 3
    assert report["validation"]["rows"] == 1
    assert (report["format"], report["max_length"]) == ("prompt_completion", 256)


def test_a_length_that_leaves_nothing_to_train_is_one_sentence(tokenised):
    with pytest.raises(UserError, match="dataset chats: max_length 3 cuts off every trained token of all 3 rows"):
        tokenised(3)


def test_empty_files_of_every_shape_have_their_columns():
    assert tokenize_data.schema("preference").names == ["id", "length", "prompt_ids", "chosen_ids", "rejected_ids"]
    assert tokenize_data.schema("text").names == ["id", "length", "input_ids", "labels"]
    names = ["id", "length", "prompt_ids", "completion_ids", "label"]
    assert tokenize_data.schema("unpaired_preference").names == names


@pytest.mark.parametrize("held_out", [0, 1])
def test_answers_with_labels_are_written_with_their_labels(in_folder, random_tiny_folder, held_out, capsys):
    rows = [
        normalise({"prompt": "q", "completion": answer, "label": answer == "good"}, "unpaired_preference", {}, "row")
        for answer in ("good", "bad")
    ]
    write_parquet(Path("data/train.parquet"), rows)
    write_parquet(Path("data/validation.parquet"), rows[:held_out], like=rows)
    stage.write_json(Path("data/report.json"), {"format": "unpaired_preference"})
    paths = {"data": Path("data"), "model": random_tiny_folder, "output": Path("tokens/rated,x")}
    tokenize_data.main(Namespace(**paths, max_length=64))
    train, validation = (pq.read_table(f"tokens/rated,x/{name}.parquet") for name in ("train", "validation"))
    assert train["label"].to_pylist() == [True, False]
    assert (validation.num_rows, validation.schema) == (held_out, train.schema)
    assert stage.read_json(Path("tokens/rated,x/report.json"))["format"] == "unpaired_preference"


def test_a_row_that_does_not_end_with_the_stop_token_is_told(tokenised, random_tiny_tokenizer):
    tokenised(256)
    assert tokenize_data.ends_with_stop(random_tiny_tokenizer, Path("tokens/chats,x"))
    random_tiny_tokenizer.eos_token = "<|endoftext|>"
    assert not tokenize_data.ends_with_stop(random_tiny_tokenizer, Path("tokens/chats,x"))
