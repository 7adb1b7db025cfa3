"""The file that names the held-out rows which stand in training rows."""

from argparse import Namespace
from pathlib import Path

from conftest import write_rows

import measure_overlap
from posttrain.data.rows import normalise
from posttrain.runtime.atomic import read_json

QUESTION = "A train leaves Seoul at nine and another one leaves Busan at ten, so when do the two of them meet?"


def test_every_held_out_set_is_looked_at(in_folder, chats, monkeypatch):
    leak = normalise({"prompt": QUESTION, "completion": "At noon."}, "prompt_completion", {}, "leak.jsonl line 7")
    write_rows(Path("data/chats/train.parquet"), [*chats, leak])
    write_rows(Path("data/chats/validation.parquet"), [])
    write_rows(Path("data/test/validation.parquet"), [leak])
    folders = [Path("data/chats"), Path("data/test")]
    said = []
    monkeypatch.setattr(measure_overlap, "say", said.append)
    measure_overlap.main(Namespace(data=folders[0], held_out=folders, output=Path("overlap.json")))
    found = read_json(Path("overlap.json"))
    assert {name: (result["rows"], result["exact"]) for name, result in found.items()} == {
        "chats/validation": (0, 0),
        "test/validation": (1, 1),
    }
    assert said == [
        "chats: WARNING: 1 of 1 held-out rows of test/validation stand in the training rows, such as leak.jsonl line 7 "
        "in leak.jsonl line 7"
    ]
