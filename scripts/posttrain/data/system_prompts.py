"""The system prompt that a chat template writes where a conversation has none."""

from os.path import commonprefix
from typing import Any

from posttrain.data.conversations import render
from posttrain.runtime.errors import UserError

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
