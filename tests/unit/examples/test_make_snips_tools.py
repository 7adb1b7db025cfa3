"""Conversations with tools out of commands: what is in a file of each kind of row, and that the shipped files are such."""

import gzip
import json
import runpy
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest

from posttrain.metrics.tool_calls import is_error

REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(REPOSITORY / "examples"))
    return SimpleNamespace(**runpy.run_path(str(REPOSITORY / "examples/make_snips_tools.py")))


def rows(name: str) -> list[dict]:
    text = gzip.decompress((REPOSITORY / f"examples/data/snips_{name}.jsonl.gz").read_bytes()).decode()
    return [json.loads(line) for line in text.splitlines()]


def called(turn: dict) -> list[tuple[str, dict]]:
    return [(call["function"]["name"], call["function"]["arguments"]) for call in turn.get("tool_calls", ())]


def kind(row: dict) -> str:
    if len(row["messages"]) == 4:
        return "recovery"
    return {0: "none", 1: "single", 2: "parallel"}[len(called(row["messages"][-1]))]


@pytest.mark.parametrize(("name", "counts"), [("tools", "TRAIN"), ("tools_test", "TEST")])
def test_a_row_calls_only_tools_that_it_offers_with_arguments_that_they_have(script, name, counts):
    found = rows(name)
    assert Counter(map(kind, found)) == getattr(script, counts)
    for row in found:
        offered = {tool["function"]["name"]: tool["function"]["parameters"]["properties"] for tool in row["tools"]}
        assert len(offered) == 2
        for tool, arguments in called(row["messages"][-1]):
            assert arguments.keys() <= offered[tool].keys()


def test_a_call_after_an_error_is_another_and_only_it_is_trained():
    found = [row["messages"] for row in rows("tools") if kind(row) == "recovery"]
    for _, wrong, result, right in found:
        assert wrong["train"] is False and "train" not in right
        assert is_error(result["content"])
        assert called(wrong) != called(right)


def test_no_command_of_a_tool_is_trained_and_measured():
    commands = [
        {row["messages"][0]["content"] for row in rows(name) if kind(row) != "none"} for name in ("tools", "tools_test")
    ]
    pairs = [
        {row["prompt"][0]["content"] for row in rows(f"tools_pairs{split}") if called(row["chosen"][0])}
        for split in ("", "_test")
    ]
    trained, measured = commands[0] | pairs[0], commands[1] | pairs[1]
    assert not trained & measured
    assert all(called(row["chosen"][0]) != called(row["rejected"][0]) for row in rows("tools_pairs"))


def test_the_files_are_written_with_the_same_bytes_each_time(script, tmp_path):
    lines = [
        json.dumps({"text": f"play number {i} by band {i}", "intent": tool, "slots": [["artist", f"band {i}"]]})
        for i, tool in enumerate(["PlayMusic", "AddToPlaylist", "GetWeather", "RateBook"] * 120)
    ]
    lines += [json.dumps({"text": f"book table {i}", "intent": "BookRestaurant", "slots": []}) for i in range(90)]
    maker_input = tmp_path / "in.jsonl"
    maker_input.write_text("\n".join(lines))
    maker = [
        script.Maker(script.read(maker_input), script.outside(maker_input), {t: ["artist"] for t in script.CONFUSED})
    ]
    first = maker[0].conversations({"single": 2, "parallel": 2, "none": 2, "recovery": 2})
    assert Counter(map(kind, first)) == {"single": 2, "parallel": 2, "none": 2, "recovery": 2}
    for name in ("a", "b"):
        script.write(tmp_path / name, first)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
