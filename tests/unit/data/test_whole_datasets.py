"""Every row of a dataset's files comes back, in their order, whatever became of it."""

import json
from argparse import Namespace
from pathlib import Path

import pytest

import mix_data
import prepare_data
from posttrain.data.whole_datasets import WholeDataset
from posttrain.runtime import atomic

SPEC = dict.fromkeys("hub revision subset split format limit near_duplicates image_folder".split())
SPEC |= {"columns": {}, "validation": 0.3, "max_dropped": 1}


def prepared(name: str, **spec) -> WholeDataset:
    """A dataset as the rule `data` leaves it."""
    folder = Path(f"results/data/{name}")
    atomic.write_json(folder / "spec.json", SPEC | spec)
    prepare_data.main(Namespace(spec=folder / "spec.json", cores=1, output=folder))
    return WholeDataset(folder)


@pytest.fixture
def files(in_folder) -> list[str]:
    """Two files of prompts with a repeated row, a row without a prompt and one that is no JSON; the lines' texts."""
    lines = [json.dumps({"prompt": f"What is {i} of {i}?"}) for i in range(12)]
    lines[5] = lines[2]
    lines[7] = json.dumps({"prompt": None})
    lines[10] = "{"
    (in_folder / "b.jsonl").write_text("\n".join(lines[:6]) + "\n")
    (in_folder / "a.jsonl").write_text("\n".join(lines[6:]) + "\n")
    return lines


def test_rows_come_in_the_order_of_the_files_and_lines(files):
    data = prepared("asked", path="*.jsonl")
    assert data.report["validation"] > 1 and data.report["dropped"] == {
        "fault": 2, "repeated": 1, "near duplicate": 0, "also held out": 0,
    }  # fmt: skip
    found = list(data)
    places = [f"{file} line {number}" for file in ("a.jsonl", "b.jsonl") for number in range(1, 7)]
    assert (len(data), [row["place"] for row in found]) == (12, places)
    said = dict(zip(places, files[6:] + files[:6], strict=True))
    for row in found:
        if "fault" not in row:
            assert row["prompt"] == [{"role": "user", "content": json.loads(said[row["place"]])["prompt"]}]
    assert [row["place"] for row in found if "fault" in row] == ["a.jsonl line 2", "a.jsonl line 5"]
    by_place = {row["place"]: row for row in found}
    assert by_place["b.jsonl line 6"] == by_place["b.jsonl line 3"] | {"place": "b.jsonl line 6"}


def test_a_file_of_held_out_rows_comes_after_the_others(in_folder):
    rows = {"train": "abcde", "held": "fghab"}
    for name, texts in rows.items():
        (in_folder / f"{name}.jsonl").write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts))
    data = prepared("asked", path="train.jsonl", validation="held.jsonl")
    assert data.report["dropped"]["also held out"] == 2
    assert "".join(row["prompt"][0]["content"] for row in data) == "abcdefghab"


def test_a_mixture_has_its_own_rows_only(files):
    whole = prepared("asked", path="*.jsonl")
    folder = Path("results/data/mixed")
    part = {"name": "asked", "weight": None, "limit": 4}
    atomic.write_json(folder / "spec.json", {"mix": [part]})
    mix_data.main(Namespace(spec=folder / "spec.json", parts=[whole.folder], output=folder))
    mixed = WholeDataset(folder)
    ids = [row["id"] for row in mixed]
    assert (
        len(mixed)
        == len(set(ids))
        == mixed.report["train"] + mixed.report["validation"]
        == 4 + whole.report["validation"]
    )
