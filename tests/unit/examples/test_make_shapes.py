"""Drawn pictures with questions: answers that are true of the picture, files that a seed repeats, held-out arrangements."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

SCRIPT = Path(__file__).resolve().parents[3] / "examples/data/make_shapes.py"
COLOURS = runpy.run_path(str(SCRIPT))["COLOURS"]


def made(output: Path, *options: str) -> Path:
    command = [sys.executable, SCRIPT, output, "--train", "40", "--test", "10", "--pairs", "10", *options]
    subprocess.run(command, check=True)
    return output


@pytest.fixture(scope="module")
def shapes(tmp_path_factory) -> Path:
    return made(tmp_path_factory.mktemp("shapes") / "a")


def rows(folder: Path, name: str) -> list[dict]:
    return [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]


def test_the_same_seed_makes_the_same_files(shapes, tmp_path):
    again = made(tmp_path / "b")
    files = sorted(file.relative_to(shapes) for file in shapes.rglob("*") if file.is_file())
    assert len(files) == 4 + 40 + 10 + 10 + 10
    assert [(again / file).read_bytes() for file in files] == [(shapes / file).read_bytes() for file in files]


def test_the_answers_are_true_of_the_pictures(shapes):
    """Pixels of a colour are counted: none where the answer is 0, some of the colour that is the answer."""
    asked = set()
    for row in rows(shapes, "shapes_train"):
        question, answer = (turn["content"] for turn in row["messages"])
        assert question.startswith("<image>")
        pixels = [pixel for _, pixel in Image.open(shapes / row["images"][0]).getcolors(64 * 64)]
        words = question.split()
        asked.add((words[1], answer))
        if words[0] == "<image>Which":
            assert COLOURS[answer] in pixels
        elif answer != "0":
            assert COLOURS[words[2]] in pixels
    assert {answer for _, answer in asked} >= {"0", "1", "2", "3", "4", "red", "blue", "green"}


def test_no_picture_is_in_two_files_of_rows_and_pairs_differ(shapes):
    names = ("shapes_train", "shapes_test", "shapes_pairs", "shapes_pairs_test")
    pictures = [
        (shapes / image).read_bytes() for name in names for row in rows(shapes, name) for image in row["images"]
    ]
    assert len(set(pictures)) == len(pictures) == 70
    assert all(row["chosen"] != row["rejected"] for row in rows(shapes, "shapes_pairs"))
