"""The demo's data: tool calls from Snips commands, and wrong calls that a model could have made."""

import json
import random
import runpy
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]
make_snips = SimpleNamespace(**runpy.run_path(str(REPOSITORY / "examples/make_snips.py")))

ROW = {
    "text": "Will it be freezing today in Oslo in Norway",
    "intent": "GetWeather",
    "slots": [["condition_temperature", "freezing"], ["timeRange", "today"], ["city", "Oslo"], ["country", "Norway"]],
}
ARGUMENTS = {"GetWeather": ["condition_temperature", "timeRange", "city", "country", "state"]}


def examples(name: str) -> list[dict]:
    return [json.loads(line) for line in (REPOSITORY / f"examples/data/snips_{name}.jsonl").read_text().splitlines()]


def test_a_call_is_json_with_the_arguments_in_their_order():
    assert make_snips.command(ROW) == {
        "command": ROW["text"],
        "call": '{"name": "GetWeather", "arguments": {"condition_temperature": "freezing", "timeRange": "today", '
        '"city": "Oslo", "country": "Norway"}}',
    }


def test_each_mistake_makes_another_call_of_the_kind_it_is_named_for():
    right = make_snips.call(ROW)
    made = {mistake.__name__: set() for mistake in make_snips.MISTAKES}
    for seed in range(40):
        for mistake in make_snips.MISTAKES:
            name, arguments = mistake(right, ROW["text"], ARGUMENTS["GetWeather"], random.Random(seed))
            made[mistake.__name__].add((name, tuple(arguments.items())))
    right = (right[0], tuple(right[1].items()))
    assert {name for name, _ in made["other_tool"]} == {"PlayMusic"}
    assert {arguments for _, arguments in made["other_tool"]} == {right[1]}
    for _, arguments in made["other_name"]:
        assert [value for _, value in arguments] == [value for _, value in right[1]]
        assert dict(arguments).keys() - dict(right[1]).keys() == {"state"}
    for _, arguments in made["missing"]:
        assert len(dict(arguments)) == 3 and set(arguments) < set(right[1])
    assert ("GetWeather", (*right[1][:1], ("timeRange", "today in"), *right[1][2:])) in made["other_value"]
    assert all(right not in found for found in made.values())


def test_a_wrong_call_is_the_same_every_time():
    assert make_snips.wrong(ROW, ARGUMENTS) == make_snips.wrong(dict(ROW), ARGUMENTS)


def test_a_training_row_that_gives_a_held_out_one_away_is_left_out(tmp_path):
    edited = ROW | {"text": "Will it be freezing tonight in Oslo in Norway"}
    other = {"text": "Play Sibelius.", "intent": "PlayMusic", "slots": [["artist", "Sibelius"]]}
    words = make_snips.words
    assert make_snips.alike(words(edited), words(ROW))
    assert not make_snips.alike(words(other), words(ROW))


def test_rows_that_occur_twice_or_give_an_argument_twice_are_left_out(tmp_path):
    twice = ROW | {"text": "Oslo or Bergen?", "slots": [["city", "Oslo"], ["city", "Bergen"]]}
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in (ROW, ROW | {"text": ROW["text"].upper()}, twice)))
    assert make_snips.read(file) == [ROW]


def test_the_examples_train_on_no_command_that_they_test_and_on_none_twice():
    asked = {name: [row["command"] for row in examples(name)] for name in ("train", "pairs", "test", "pairs_test")}
    assert asked["test"] == asked["pairs_test"]
    every = [*asked["train"], *asked["pairs"], *asked["test"]]
    assert len(every) == len(set(every)) == make_snips.TRAIN + make_snips.PAIRS + make_snips.TEST


@pytest.mark.parametrize("name", ["train", "test"])
def test_the_examples_have_equally_many_calls_of_each_tool(name):
    tools = Counter(json.loads(row["call"])["name"] for row in examples(name))
    assert len(tools) == 4 and len(set(tools.values())) == 1


@pytest.mark.parametrize("name", ["pairs", "pairs_test"])
def test_the_examples_pairs_differ(name):
    for row in examples(name):
        assert json.loads(row["chosen"]) != json.loads(row["rejected"])
