"""The files that `tokenize_data` leaves, and its warnings."""

import re
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from conftest import refused, write_rows

import tokenize_data
from posttrain.data.rows import normalise
from posttrain.data.tokens import sft_tokens
from posttrain.runtime import atomic

TRAINED = {"assistant_turns": "all", "train_thoughts": "true"}


@pytest.fixture
def tokenised(in_folder, chats, random_tiny_folder):
    """Tokenise the conversations, one of them held out; returns the report."""

    def run(max_length: int) -> dict:
        write_rows(Path("data/train.parquet"), chats[1:])
        write_rows(Path("data/validation.parquet"), chats[:1])
        atomic.write_json(Path("data/data.json"), {"shape": "messages"})
        options = {
            "data": Path("data"),
            "model": random_tiny_folder,
            "max_length": max_length,
            "cores": 1,
            **TRAINED,
            "output": Path("tokens/chats,x"),
        }
        tokenize_data.main(Namespace(**options))
        return atomic.read_json(Path("tokens/chats,x/report.json"))

    return run


def test_both_files_have_one_row_of_tokens_for_each_row(tokenised, chats):
    report = tokenised(256)
    train, validation = (pq.read_table(f"tokens/chats,x/{name}.parquet") for name in ("train", "validation"))
    assert train.schema.equals(validation.schema)
    assert train["id"].to_pylist() == [row["id"] for row in chats[1:]]
    assert report["train"]["rows"] == 3
    assert report["validation"]["rows"] == 1
    assert (report["shape"], report["max_length"]) == ("messages", 256)


def test_a_length_that_leaves_nothing_to_train_is_one_sentence(tokenised):
    with refused("nothing-trained", "dataset chats"):
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
    write_rows(Path("data/train.parquet"), rows, "unpaired_preference")
    write_rows(Path("data/validation.parquet"), rows[:held_out], "unpaired_preference")
    atomic.write_json(Path("data/data.json"), {"shape": "unpaired_preference"})
    paths = {"data": Path("data"), "model": random_tiny_folder, "output": Path("tokens/rated,x")}
    tokenize_data.main(Namespace(**paths, **TRAINED, max_length=64, cores=1))
    train, validation = (pq.read_table(f"tokens/rated,x/{name}.parquet") for name in ("train", "validation"))
    assert train["label"].to_pylist() == [True, False]
    assert (validation.num_rows, validation.schema) == (held_out, train.schema)
    assert atomic.read_json(Path("tokens/rated,x/report.json"))["shape"] == "unpaired_preference"


def test_the_report_tells_what_the_tokenizer_makes_of_the_rows(tokenised, chats, random_tiny_tokenizer):
    lengths = [len(ids) for ids, _ in sft_tokens(random_tiny_tokenizer, chats[1:])]
    assert 16 < min(lengths) < 40 < max(lengths)
    train = tokenised(40)["train"]
    assert train["lengths"]["max"] == max(lengths)
    assert train["lengths"]["p50"] == sorted(lengths)[1]
    assert train["cut"] == sum(length > 40 for length in lengths)
    assert train["unknown"] == 0
    whole = tokenised(256)["train"]
    emoji = random_tiny_tokenizer("😀", add_special_tokens=False)["input_ids"]
    assert whole["fallback"] >= len(emoji) > 1  # one character in several tokens, none of which is a character


def test_tokens_are_the_same_on_two_processes(in_folder, chats, random_tiny_folder, monkeypatch):
    monkeypatch.setattr(tokenize_data, "BLOCK_ROWS", 1)
    write_rows(Path("data/train.parquet"), chats)
    write_rows(Path("data/validation.parquet"), [])
    atomic.write_json(Path("data/data.json"), {"shape": "messages"})
    for cores in (1, 2):
        paths = {"data": Path("data"), "model": random_tiny_folder, "output": Path(f"tokens/{cores}")}
        tokenize_data.main(Namespace(**paths, **TRAINED, max_length=256, cores=cores))
    assert pq.read_table("tokens/1/train.parquet").equals(pq.read_table("tokens/2/train.parquet"))
    assert atomic.read_json(Path("tokens/1/report.json")) == atomic.read_json(Path("tokens/2/report.json"))
    assert pq.read_table("tokens/2/validation.parquet").num_rows == 0


def test_a_process_that_tokenises_imports_no_torch(in_folder, chats, random_tiny_folder):
    write_rows(Path("data/train.parquet"), chats)
    write_rows(Path("data/validation.parquet"), [])
    atomic.write_json(Path("data/data.json"), {"shape": "messages"})
    script = Path(tokenize_data.__file__)
    paths = ["--data", "data", "--model", random_tiny_folder, "--output", "tokens/alone"]
    program = [sys.executable, "-X", "importtime", script, *paths, "--max-length", "256", "--cores", "1"]
    told = subprocess.run(list(map(str, program)), check=True, capture_output=True, text=True).stderr
    assert "transformers" in told
    assert not re.search(r"\| +torch\b", told)
