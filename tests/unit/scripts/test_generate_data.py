"""A model's completions take the place of a dataset's own, in training rows only."""

import json
from argparse import Namespace
from pathlib import Path

import pytest
from conftest import refused, write_rows

import generate_data
from posttrain.data import rows
from posttrain.runtime import atomic

pytestmark = pytest.mark.usefixtures("in_folder")


def generate(chats: list[dict], answers: list[dict], held_out: int = 1) -> list[list[dict]]:
    source = Path("results/data/chats")
    for split, some in (("train", chats[held_out:]), ("validation", chats[:held_out])):
        write_rows(source / f"{split}.parquet", some)
    record = {"recognised": None, "origin": "x.jsonl", "licence": "mit", "files": {"x.jsonl": "0"}}
    atomic.write_json(source / "data.json", record)
    file, output = Path("results/big/predictions/chats.jsonl"), Path("results/data/said")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(answer) + "\n" for answer in answers))
    generate_data.main(Namespace(spec=output / "spec.json", rows=source, answers=file, output=output))
    return [rows.read(output / f"{split}.parquet") for split in ("train", "validation")]


def answer(row: dict, completion: str, finish: str = "stop") -> dict:
    return {"id": row["id"], "place": row["place"], "completion": completion, "finish": finish}


def test_training_rows_get_the_models_completion_and_held_out_rows_keep_theirs(chats):
    train, validation = generate(chats, [answer(row, " Said by the model.") for row in chats])
    assert [row["messages"][-1] for row in train] == [{"role": "assistant", "content": "Said by the model."}] * 3
    assert [row["messages"][:-1] for row in train] == [row["messages"][:-1] for row in chats[1:]]
    assert len({row["id"] for row in train}) == 3
    assert [row["messages"] for row in validation] == [chats[0]["messages"]]


def test_rows_without_a_whole_completion_are_left_out_and_listed(chats):
    answers = [answer(chats[1], "Half", "length"), answer(chats[2], "  "), answer(chats[3], "Whole.")]
    train, _ = generate(chats, answers, held_out=0)
    assert [row["messages"][-1]["content"] for row in train] == ["Whole."]
    report = atomic.read_json(Path("results/data/said/data.json"))
    assert report["dropped"] == {"no answer": 1, "truncated": 1, "empty": 1}
    assert (report["shape"], report["licence"], report["rows"]) == ("messages", "mit", 4)
    lines = Path("results/data/said/dropped.jsonl").read_text().splitlines()
    assert [json.loads(line)["place"] for line in lines] == [row["place"] for row in chats[:3]]


def test_nothing_but_truncated_completions_is_refused(chats):
    with refused("no-rows", "dataset said"):
        generate(chats, [answer(row, "Half", "length") for row in chats])
