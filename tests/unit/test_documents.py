"""The JSON files of results: docs/files.md names every key of their types, and a key that nobody documented is noticed."""

import re
from pathlib import Path

import pytest

from posttrain import documents

PAGE = Path(__file__).resolve().parents[2] / "docs/files.md"


@pytest.mark.parametrize("file", documents.FILES)
def test_the_page_names_every_key(file):
    section = next(
        part
        for part in re.split("^## ", PAGE.read_text(), flags=re.M)
        if part.startswith("results/") and f"/{file}\n" in part
    )
    named = set(re.findall(r"`(\w+)`", section))
    if file == "report.json":
        named |= {"shape", "rows"}  # of data.json
    assert documents.FILES[file].__annotations__.keys() <= named


def test_missing_and_unknown_keys_are_told():
    values = dict.fromkeys(documents.Preflight.__required_keys__)
    assert documents.faults("preflight.json", values) == []
    values["more"] = values.pop("passed")
    assert documents.faults("preflight.json", values) == ["passed is missing", "more is unknown"]
    spec = dict.fromkeys(documents.RunSpec.__required_keys__)
    assert documents.faults("spec.json", spec | {"beta": 0.1}) == []
