"""The easy and the hard part of a preference dataset: which rows go where, and what the report says of it."""

import json
from argparse import Namespace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from conftest import refused, write_rows

import select_data
from posttrain.data.rows import normalise
from posttrain.data.tokens import tokenise
from posttrain.models import loading
from posttrain.runtime import atomic
from tokenize_data import schema

ANSWERS = "apple pear plum fig cherry quince".split()
LIMIT = 64
SOURCE = {"format": "preference", "recognised": None, "shape": "preference"}
SOURCE |= {"origin": "pairs.jsonl", "licence": "mit", "files": {}}


def pairs(first: int, count: int) -> list[dict]:
    rows = [
        {"prompt": f"Name fruit {i}.", "chosen": ANSWERS[i % 6] * (1 + i % 3), "rejected": ANSWERS[-i % 6] + "s"}
        for i in range(first, first + count)
    ]
    return [normalise(row, "preference", {}, "row") for row in rows]


@pytest.fixture
def select(random_run, random_tiny_tokenizer, fp32):
    """Select a part of rows with a reward model of random weights; returns the report."""
    loading.save(random_run("reward", "full"), random_tiny_tokenizer, Path("model"))
    for split, rows in (("train", pairs(0, 12)), ("validation", pairs(12, 5))):
        long = normalise({"prompt": "word " * 99, "chosen": "a", "rejected": "b"}, "preference", {}, "row")
        write_rows(Path(f"rows/{split}.parquet"), [*rows[:3], long, *rows[3:]], "preference")
        encoded, _ = tokenise(random_tiny_tokenizer, [*rows[:3], long, *rows[3:]], "preference", LIMIT)
        Path("pairs").mkdir(exist_ok=True)
        pq.write_table(pa.Table.from_pylist(encoded, schema=schema("preference")), f"pairs/{split}.parquet")
    atomic.write_json(Path("rows/data.json"), SOURCE)

    def run(part: str, margin: float) -> dict:
        atomic.write_json(Path("spec.json"), {"part": part, "margin": margin})
        paths = {"spec": "spec.json", "model": "model", "rows": "rows", "tokens": "pairs", "output": f"data/{part}"}
        select_data.main(Namespace(**{name: Path(path) for name, path in paths.items()}))
        return atomic.read_json(Path(f"data/{part}/data.json"))

    return run


def margins(split: str) -> dict[str, float]:
    """score(chosen) - score(rejected) of each row that has tokens, one at a time."""
    model = loading.load(Path("model")).eval()

    def score(ids: list[int]) -> float:
        with torch.no_grad():
            return model(input_ids=torch.tensor([ids])).logits[0, 0].item()

    rows = pq.read_table(f"pairs/{split}.parquet").to_pylist()
    sides = [[score(row["prompt_ids"] + row[f"{side}_ids"]) for row in rows] for side in ("chosen", "rejected")]
    return {row["id"]: chosen - rejected for row, chosen, rejected in zip(rows, *sides, strict=True)}


def ids(part: str, split: str) -> list[str]:
    return pq.read_table(f"data/{part}/{split}.parquet")["id"].to_pylist()


def test_the_parts_are_the_rows_above_the_margin_and_the_rest_in_their_order(select):
    margin = float(np.median([*margins("train").values()])) + 1e-6
    reports = {part: select(part, margin) for part in ("easy", "hard")}
    for split in ("train", "validation"):
        whole = pq.read_table(f"rows/{split}.parquet")
        order = whole["id"].to_pylist()
        known = margins(split)
        assert ids("easy", split) == [id for id in order if id in known and known[id] > margin]
        assert ids("hard", split) == [id for id in order if id in known and known[id] <= margin]
        for part, report in reports.items():
            table = pq.read_table(f"data/{part}/{split}.parquet")
            assert table.schema == whole.schema
            assert report[split] == table.num_rows
            assert table.to_pylist() == [row for row in whole.to_pylist() if row["id"] in ids(part, split)]
    assert ids("easy", "train")
    assert ids("hard", "train")


def test_the_report_tells_the_margins_and_what_was_left_out(select):
    report = select("easy", -100.0)
    expected = np.quantile([*margins("train").values()], [0, 0.25, 0.5, 0.75, 1])
    assert report["train_margins"] == pytest.approx(expected.tolist(), abs=2e-4)
    assert (report["shape"], report["part"], report["margin"]) == ("preference", "easy", -100.0)
    assert (report["train"], report["validation"], report["rows"]) == (12, 5, 19)
    assert report["dropped"] == {"without tokens": 2}
    lines = [json.loads(line) for line in Path("data/easy/dropped.jsonl").read_text().splitlines()]
    assert [line["kind"] for line in lines] == ["without tokens"] * 2
    assert all(json.loads(line["row"])["prompt"][0]["content"].startswith("word word") for line in lines)
    assert json.loads(Path("data/easy/data.json").read_text()) == report


@pytest.mark.parametrize(("part", "margin"), [("easy", 100), ("hard", -100)])
def test_a_part_without_rows_to_train_on_is_one_sentence_and_leaves_nothing(select, part, margin):
    with refused("no-rows", f"dataset {part}"):
        select(part, margin)
    assert not Path(f"data/{part}/data.json").exists()


def test_held_out_rows_may_be_none(select):
    margin = max(margins("validation").values()) + 1e-5
    assert margin < max(margins("train").values())
    assert select("easy", margin)["validation"] == 0
    assert pq.read_table("data/easy/validation.parquet").num_rows == 0


def test_rows_of_another_shape_are_one_sentence(select):
    atomic.write_json(Path("rows/data.json"), SOURCE | {"shape": "messages"})
    with refused("wrong-dataset-type", "dataset easy"):
        select("easy", 0.0)
