"""What is seen of a machine, of files of rows and of folders of models."""

import json
from pathlib import Path

import pytest
import tiny_bases
from conftest import REPOSITORY, refused

from posttrain.guidance import facts
from posttrain.models import machine
from posttrain.models.machine import Memory

GIB = 2**30
DATA = REPOSITORY / "examples/data"


def write(rows, name="rows.jsonl"):
    Path(name).write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return name


def test_a_named_gpu_is_believed_and_a_tenth_is_not_given_away():
    found = facts.place(24, 2)
    assert (found.device, found.gpus, found.bf16) == ("gpu", 2, True) and found.budget == 0.95 * 24 * GIB
    assert facts.place(0, None).device == "cpu"
    with refused("missing-answer", "--gpus"):
        facts.place(None, 4)


def test_the_gpu_of_this_machine_is_seen(monkeypatch):
    """A T4 multiplies no bfloat16, so weights are held in float32."""
    monkeypatch.setattr(machine, "available", lambda: Memory("gpu", "Tesla T4", 15 * GIB, 14 * GIB, False))
    found = facts.place(None, None)
    assert (found.device, found.bf16, found.memory) == ("gpu", False, 15) and "Tesla T4" in found.says


@pytest.mark.parametrize(("file", "type", "count"), [
    ("gsm8k_train.jsonl", "messages", 48), ("snips_train.jsonl", None, None), ("gsm8k_pairs.jsonl", "preference", 16),
])  # fmt: skip
def test_files_are_recognised_as_the_workflow_does(file, type, count):
    if type is None:  # `command` and `call` may be anything
        with refused("unknown-format"):
            facts.look(str(DATA / file))
        return
    rows = facts.look(str(DATA / file))
    assert (rows.type, rows.count) == (type, count) and 50 < rows.longest < 512
    assert rows.is_example == (type == "messages")


def test_lengths_are_of_what_is_trained_together(in_folder):
    """Of a pair one side at a time; Korean has three bytes a letter and about a token."""
    pair = {"prompt": "q" * 300, "chosen": "a" * 3000, "rejected": "b" * 30}
    assert 1080 < facts.look(write([pair] * 5)).longest < 1130
    korean = {"prompt": "가" * 300, "completion": "나" * 600}
    assert 890 < facts.look(write([korean] * 5)).longest < 920


def test_rows_that_teach_nothing_and_files_that_are_not_there_are_refused(in_folder):
    with refused("wrong-dataset-type", "rows.jsonl"):
        facts.look(write([{"prompt": "only a question"}] * 3))
    with refused("missing-file", "nowhere.jsonl"):
        facts.look("nowhere.jsonl")
    with refused("no-rows"):
        facts.look(write([{"prompt": 1, "completion": 2}] * 3))


def test_a_folder_of_a_model_is_read(in_folder):
    tiny_bases.save(Path("my base"), tiny_bases.chatml())
    found = facts.source("my base")
    assert found.keys == {"source": "path", "path": "my base"} and found.name == "my_base"
    assert found.model.parameters < 1e5
    for weights in Path("my base").glob("*.safetensors"):
        weights.unlink()
    assert facts.source("my base").model.parameters == found.model.parameters
    Path("empty").mkdir()
    with refused("missing-file", "--model empty"):
        facts.source("empty")


@pytest.mark.parametrize(("text", "name"), [
    ("org/Data", "base_data"), ("org/7B-model", "base_7b_model"), ("o/examples", "base_examples"), ("o/---", "base"),
])  # fmt: skip
def test_every_model_has_a_name_that_the_configuration_accepts(text, name):
    assert facts._name(text) == name
