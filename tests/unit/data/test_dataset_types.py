"""The table of dataset types: what follows from a row's columns."""

from dataclasses import replace

import pytest

from posttrain.data import dataset_types
from posttrain.data.dataset_types import COMPLETIONS, DATASET_TYPES, TURNS, for_suites, of
from posttrain.data.rows import normalise, schema

USER, ANSWER = {"role": "user", "content": "one"}, {"role": "assistant", "content": "two"}
WORSE = {"role": "assistant", "content": "three"}
# A row in a format of the same name, its prompt, its completions and its reference.
ROWS = {
    "text": ({"text": "one two"}, [], [], None),
    "messages": ({"messages": [USER, ANSWER]}, [USER], [[ANSWER]], "two"),
    "preference": ({"prompt": "one", "chosen": "two", "rejected": "three"}, [USER], [[ANSWER], [WORSE]], "two"),
    "unpaired_preference": ({"prompt": "one", "completion": "two", "label": True}, [USER], [[ANSWER]], None),
    "prompts": ({"prompt": "one"}, [USER], [], None),
}


@pytest.mark.parametrize("name", ROWS)
def test_a_row_tells_its_type_and_what_it_holds(name):
    raw, prompt, completions, reference = ROWS[name]
    row = normalise(raw, name, {}, "row")
    kind = of(row)
    assert kind is DATASET_TYPES[name]
    assert kind.prompt(row) == prompt
    assert kind.answers(row) == completions
    assert kind.reference_text(row) == reference
    assert kind.text(row).split() == [
        *(["one"] if name != "text" else ["one", "two"]),
        *(turn["content"] for turns in completions for turn in turns),
    ]


def test_a_type_is_known_by_the_columns_of_its_tables():
    for name, kind in DATASET_TYPES.items():
        assert of(schema(name).names) is kind


def test_a_type_with_a_score_needs_only_its_row(monkeypatch):
    columns = {"prompt": "turns", "completion": "turns", "score": "number"}
    rated = replace(DATASET_TYPES["unpaired_preference"], columns=columns)
    monkeypatch.setitem(DATASET_TYPES, "rated", rated)
    dataset_types._of.cache_clear()
    assert of(schema("rated").names) is rated
    assert of(schema("unpaired_preference").names) is DATASET_TYPES["unpaired_preference"]
    assert rated.facts == ("score",)
    assert rated.token_columns == {"prompt_ids": "ids", "completion_ids": "ids", "score": "number"}
    dataset_types._of.cache_clear()


def test_a_suite_measures_the_types_that_name_its_kind_or_else_those_with_references():
    assert for_suites("perplexity") == ("text", "messages", "image_messages", "audio_messages")
    assert for_suites("preference") == ("preference", "image_preference")
    assert for_suites("reward") == ("messages", "preference", "prompts")
    assert for_suites("generation") == (
        "messages",
        "image_messages",
        "audio_messages",
        "preference",
        "image_preference",
    )


def test_images_make_another_type_of_the_same_turns():
    assert of(["id", "messages"]) is DATASET_TYPES["messages"]
    assert of(["id", "messages", "images"]) is DATASET_TYPES["image_messages"]


def test_columns_follow_from_the_table():
    assert TURNS == ("messages", "prompt", "chosen", "rejected", "completion")
    assert COMPLETIONS == ("chosen", "rejected", "completion")
    pair = DATASET_TYPES["preference"]
    assert list(pair.token_columns) == ["prompt_ids", "chosen_ids", "rejected_ids"]
    assert pair.trained_columns == ("chosen_ids", "rejected_ids")
    assert DATASET_TYPES["unpaired_preference"].token_columns["label"] == "boolean"
    assert DATASET_TYPES["text"].trained_columns == ("labels",)
    assert DATASET_TYPES["prompts"].trained_columns == ()
