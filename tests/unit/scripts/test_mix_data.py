"""What a mixture takes of each dataset, and what it leaves out."""

import io
import json
from argparse import Namespace
from pathlib import Path

import pytest
from conftest import refused, write_rows
from PIL import Image

import mix_data
from mix_data import amounts
from posttrain.data import media, rows
from posttrain.data.media import Store
from posttrain.data.rows import normalise
from posttrain.runtime import atomic


def parts(**tables) -> list[dict]:
    return [{"name": name, "weight": None, "limit": None} | table for name, table in tables.items()]


AMOUNTS = [
    (parts(a={}, b={}), {"a": 100, "b": 30}),
    (parts(a={"limit": 10}, b={"limit": 50}), {"a": 10, "b": 30}),
    (parts(a={"weight": 1}, b={"weight": 1}), {"a": 30, "b": 30}),
    (parts(a={"weight": 3}, b={"weight": 1}), {"a": 90, "b": 30}),
    (parts(a={"weight": 0.5}, b={"weight": 0.5}), {"a": 30, "b": 30}),
    (parts(a={"weight": 2}, b={}), {"a": 60, "b": 30}),
    (parts(a={"weight": 10}, b={"weight": 1}), {"a": 100, "b": 10}),
    (parts(a={"weight": 1, "limit": 20}, b={"weight": 1}), {"a": 20, "b": 20}),
]


@pytest.mark.parametrize(("mixed", "taken"), AMOUNTS)
def test_weights_give_shares_and_no_row_is_repeated(mixed, taken):
    assert amounts(mixed, {"a": 100, "b": 30}) == taken


def chat(question: str, answer: str = "a", name: str = "x") -> dict:
    return normalise({"prompt": question, "completion": answer}, "prompt_completion", {}, f"{name} line 1")


def dataset(name: str, train: list[dict], validation: list[dict], shape: str = "messages") -> None:
    folder = Path("results/data") / name
    write_rows(folder / "train.parquet", train, shape)
    write_rows(folder / "validation.parquet", validation, shape)
    counts = {"train": len(train), "validation": len(validation)}
    atomic.write_json(folder / "data.json", {"shape": shape, "files": {f"{name}.jsonl": "0"}} | counts)


def mix(**tables) -> dict:
    atomic.write_json(Path("spec.json"), {"mix": parts(**tables)})
    folders = [Path("results/data") / name for name in tables]
    mix_data.main(Namespace(spec=Path("spec.json"), parts=folders, output=Path("results/data/all")))
    return atomic.read_json(Path("results/data/all/data.json"))


def asked(split: str) -> list[str]:
    return [row["messages"][0]["content"] for row in rows.read(Path(f"results/data/all/{split}.parquet"))]


def test_a_mixture_has_the_rows_of_both_by_their_hash(in_folder):
    many, few = [chat(f"many {i}") for i in range(40)], [chat(f"few {i}") for i in range(10)]
    dataset("many", many, [chat("held out")])
    dataset("few", few, [])
    report = mix(many={"weight": 2}, few={"weight": 1})
    assert report["parts"] == {"many": {"train": 20, "validation": 1}, "few": {"train": 10, "validation": 0}}
    chosen = {row["messages"][0]["content"] for row in sorted(many, key=lambda row: row["id"])[:20]}
    assert {question for question in asked("train") if question.startswith("many")} == chosen
    assert asked("validation") == ["held out"]
    assert (report["shape"], report["train"], report["validation"]) == ("messages", 30, 1)
    assert set(report["files"]) == {"many.jsonl", "few.jsonl"}


def test_what_another_dataset_has_or_holds_out_is_left_out_and_written_down(in_folder):
    dataset("one", [chat("q1", name="one"), chat("q2"), chat("q3")], [chat("q4", "b", "one")])
    dataset("two", [chat("q1", name="two"), chat("q4", "another answer", "two"), chat("q5")], [])
    report = mix(one={}, two={})
    assert sorted(asked("train")) == ["q1", "q2", "q3", "q5"]
    assert report["dropped"] == {"repeated": 1, "also held out": 1}
    assert report["rows"] == report["train"] + report["validation"] + 2
    lines = [json.loads(line) for line in Path("results/data/all/dropped.jsonl").read_text().splitlines()]
    assert sorted((line["kind"], line["place"], line["reason"]) for line in lines) == [
        ("also held out", "two line 1", "its prompt is held out, as one line 1"),
        ("repeated", "two line 1", "the same as one line 1"),
    ]
    assert all(json.loads(line["row"])["messages"] for line in lines)


def test_rows_of_two_shapes_are_one_sentence_and_leave_nothing(in_folder):
    dataset("one", [chat("q")], [])
    dataset("two", [normalise({"text": "t"}, "text", {}, "x line 1")], [], "text")
    with refused("wrong-dataset-type", "dataset all"):
        mix(one={}, two={})
    assert not Path("results/data/all").exists()


def test_text_and_rows_about_pictures_are_one_mixture_with_its_own_files(in_folder):
    def about(colour: str) -> dict:
        file = io.BytesIO()
        Image.new("RGB", (8, 8), colour).save(file, "PNG")
        turns = [{"role": "user", "content": "<image>?"}, {"role": "assistant", "content": colour}]
        store = Store(Path(), Path("results/data/seen"))
        return normalise({"messages": turns, "image": file.getvalue()}, "llava", {}, "seen line 1", store)

    red, blue = about("red"), about("blue")
    dataset("seen", [red], [blue], "image_messages")
    dataset("said", [chat("q"), chat("what is <image>?")], [])
    assert mix(seen={}, said={})["shape"] == "image_messages"
    found = rows.read(Path("results/data/all/train.parquet"))
    assert [(row["id"], row["images"]) for row in found] == [(red["id"], red["images"]), (chat("q")["id"], [])]
    for row in (red, blue):
        assert media.read(Path("results/data/all"), row["images"][0]).startswith(b"\x89PNG")
    line = json.loads(Path("results/data/all/dropped.jsonl").read_text())
    assert (line["kind"], line["reason"]) == ("mark without a file", "its text has <image>, and it is about no file")
    mix(said={})
    assert not Path("results/data/all/media").exists()
