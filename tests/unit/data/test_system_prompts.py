"""The system prompt that a dataset's rows share."""

from pathlib import Path

import pytest
from conftest import write_rows

from posttrain.data import system_prompts
from posttrain.data.rows import normalise


def row(*turns: tuple[str, str]) -> dict:
    return normalise({"messages": [{"role": role, "content": text} for role, text in turns]}, "messages", {}, "row")


ASKED = (("user", "Hello"), ("assistant", "Hi"))


@pytest.mark.parametrize(("systems", "found"), [
    (["Be brief.", "Be brief."], "Be brief."), (["Be brief.", None], None), (["Be brief.", "Be long."], None),
    ([None, None], None), ([], None),
])  # fmt: skip
def test_only_one_that_all_rows_begin_with_is_theirs(in_folder, systems, found):
    rows = [row(*([("system", text)] if text else []), *ASKED) for text in systems]
    write_rows(Path("rows.parquet"), rows)
    assert system_prompts.of_rows(Path("rows.parquet")) == found


def test_of_pairs_it_stands_in_the_prompt_and_a_text_has_none(in_folder):
    turns = [{"role": "system", "content": "S"}, {"role": "user", "content": "Hello"}]
    pair = {
        "prompt": turns,
        "chosen": [{"role": "assistant", "content": "a"}],
        "rejected": [{"role": "assistant", "content": "b"}],
    }
    write_rows(Path("pairs.parquet"), [normalise(pair, "preference", {}, "row")], "preference")
    assert system_prompts.of_rows(Path("pairs.parquet")) == "S"
    write_rows(Path("texts.parquet"), [normalise({"text": "Hello"}, "text", {}, "row")], "text")
    assert system_prompts.of_rows(Path("texts.parquet")) is None
