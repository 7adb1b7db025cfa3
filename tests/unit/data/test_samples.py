"""Samples of held-out rows: the same for every model, each origin with its share, a smaller one the beginning of a larger."""

from collections import Counter
from pathlib import Path

import pytest
from conftest import write_rows

from posttrain.data.rows import group, normalise
from posttrain.data.samples import HeldOut, chosen
from posttrain.runtime import atomic

NAMES = [f"row{i}" for i in range(300)]


def test_every_origin_has_its_share():
    strata = ["a"] * 200 + ["b"] * 75 + ["c"] * 25
    for limit in (12, 60, 120):
        counts = Counter(strata[i] for i in chosen(NAMES, strata, limit))
        assert counts == pytest.approx({"a": limit * 2 / 3, "b": limit / 4, "c": limit / 12}, abs=1)


def test_many_small_origins_are_sampled_too():
    strata = [i // 2 for i in range(300)]
    found = chosen(NAMES, strata, 50)
    assert len({strata[i] for i in found}) == 50
    assert max(found) > 250 and min(found) < 50


def test_a_smaller_sample_is_the_beginning_of_a_larger_one_and_files_order_says_nothing():
    strata = [i % 3 for i in range(300)]
    whole = chosen(NAMES, strata)
    assert sorted(whole) == list(range(300))
    assert all(chosen(NAMES, strata, limit) == whole[:limit] for limit in (1, 10, 299, 1000))
    turned = chosen(NAMES[::-1], strata[::-1], 40)
    assert [NAMES[::-1][i] for i in turned] == [NAMES[i] for i in whole[:40]]


def test_the_training_rows_of_a_conversation_stay_together_in_their_order():
    names = [f"{name}.{k}" for name in "abcdef" for k in range(12)]
    found = [names[i] for i in chosen(names, ["one"] * len(names))]
    assert [name.split(".")[0] for name in found[::12]] == [name.split(".")[0] for name in found[11::12]]
    assert [int(name.split(".")[1]) for name in found[:12]] == list(range(12))


def chats(count: int) -> list[dict]:
    found = []
    for i in range(count):
        file = "one.jsonl" if i < 9 else "two.jsonl"
        row = {"prompt": f"Question {i // 2}?", "completion": f"Answer {i}."}
        found.append(normalise(row, "prompt_completion", {}, f"data/{file} line {i + 1}"))
    return found


def test_rows_are_read_with_the_part_and_the_prompt_that_they_share(in_folder):
    rows = chats(12)
    write_rows(Path("results/data/mixture/validation.parquet"), rows)
    parts = {"first": {"train": 1, "validation": 5}, "second": {"train": 1, "validation": 7}}
    atomic.write_json(Path("results/data/mixture/data.json"), {"parts": parts})
    held_out = HeldOut(Path("results/data/mixture"))
    names = [f"{rows[4]['id']}.0", f"{rows[4]['id']}.1", rows[5]["id"]]
    found = held_out.read(names)
    assert found == {row["id"]: row for row in rows[4:6]}
    examples = [held_out.example(name, found[name.partition(".")[0]]) for name in names]
    assert [example["part"] for example in examples] == ["first", "first", "second"]
    assert {example["prompt_group"] for example in examples} == {group(rows[4])}  # rows 4 and 5 share their prompt
    assert len(held_out.sample(held_out.ids, 5)) == 5


def test_files_are_origins_too(in_folder):
    rows = chats(12)
    write_rows(Path("results/data/chats/validation.parquet"), rows)
    atomic.write_json(Path("results/data/chats/data.json"), {"shape": "messages"})
    held_out = HeldOut(Path("results/data/chats"))
    found = [rows[i]["place"].split()[0] for i in held_out.sample(held_out.ids, 8)]
    assert Counter(found) == {"data/one.jsonl": 6, "data/two.jsonl": 2}
    assert "part" not in held_out.example(rows[0]["id"], rows[0])
