"""System prompts: the one that a chat template writes where a conversation has none, and the one that a dataset's rows share."""

from os.path import commonprefix
from pathlib import Path
from typing import Any

from posttrain.data import rows
from posttrain.data.conversations import render
from posttrain.runtime.errors import UserError

LOOKED_AT = 100  # rows of a dataset
_QUESTION = [{"role": "user", "content": "Question"}]


def of_template(tokenizer: Any) -> str | None:
    """The system prompt that a template writes if a conversation has none; None if it writes none, or knows no system prompts."""
    if not tokenizer.chat_template:
        return None
    try:
        plain = render(tokenizer, _QUESTION)
        given = [render(tokenizer, [{"role": "system", "content": word}, *_QUESTION]) for word in "AB"]
    except UserError:  # it knows no system prompt
        return None
    before = commonprefix(given)  # noqa: RUF071  (characters are meant)
    after = given[0][len(before) + 1 :]
    if len(plain) < len(before) + len(after) or not (plain.startswith(before) and plain.endswith(after)):
        return None
    return plain[len(before) : len(plain) - len(after)].strip() or None


def of_rows(file: Path) -> str | None:
    """The system prompt with which the first rows of a Parquet file all begin; None where they have none, or several."""
    first = next(rows.batches(file, LOOKED_AT), None)
    asked = [row.get("messages") or row.get("prompt") for row in (first.to_pylist() if first else [])]
    found = {turns[0]["content"] if turns and turns[0]["role"] == "system" else None for turns in asked}
    return found.pop() if len(found) == 1 else None
