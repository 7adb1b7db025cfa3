"""From exported files to ratings.json, its table, and a preference dataset."""

from argparse import Namespace
from pathlib import Path

import pytest

import summarise_ratings
from posttrain.runtime.atomic import read_json
from unit.reports.test_ratings import rating, write
from unit.scripts.test_prepare_data import prepare, read

FOLDER = Path("results/ratings/sft~dpo")


@pytest.fixture
def result(in_folder) -> dict:
    """Ten items, of which b wins nine: by two raters who agree on three."""
    files = [
        write("anna.json", [rating(n, said="bbt" if n < 10 else "att") for n in range(1, 11)]),
        write("bo.json", [rating(n, "bo", "bbt") for n in range(1, 4)]),
    ]
    summarise_ratings.main(Namespace(a="sft", b="dpo", ratings=files, output=FOLDER))
    return read_json(FOLDER / "ratings.json")


def test_the_counts_are_written_and_printed(result):
    assert (result["items"], result["raters"], result["preferences"]) == (10, {"anna": 10, "bo": 3}, 10)
    assert summarise_ratings.printed(result).splitlines() == [
        "              sft wins  dpo wins  ties  share of dpo      verdict      alpha",
        "-" * 76,
        "helpfulness   1         9         0     90% [55%, 100%]   better       -",
        "harmlessness  0         9         1     100% [66%, 100%]  better       -",
        "honesty       0         0         10    -                 no evidence  -",
        "",
        "10 items, 2 raters, 10 preferences. Verdicts are of dpo against sft, corrected for their number (Holm).",
    ]


def test_the_preferences_are_a_dataset(result):
    data = prepare(str(FOLDER / "preferences.jsonl"))
    assert (data["format"], data["train"], data["dropped"]["fault"]) == ("preference", 10, 0)
    row = next(row for row in read() if row["prompt"][0]["content"] == "What is 3?")
    assert (row["chosen"][0]["content"], row["rejected"][0]["content"]) == ("3", "It is 3.")


def test_it_is_said_when_a_model_changed_between_two_pages():
    same = [rating(1), rating(1, "bo"), rating(2)]
    assert summarise_ratings.shown_differently(same) == 0
    assert summarise_ratings.shown_differently([*same, rating(1, "cy", answer_b="It is one.")]) == 1
