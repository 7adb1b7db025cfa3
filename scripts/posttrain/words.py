"""A row's words, as duplicates and overlaps are found by them: no case, no punctuation."""

import re
from collections.abc import Iterator
from typing import Any

# Scripts written without spaces give a word a character; every other run of letters and digits is a word.
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+")
_PUNCTUATION = {code: " " for code in range(128) if not (chr(code).isalnum() or chr(code) == "_")}

TURNS = ("messages", "prompt", "chosen", "rejected", "completion")


def words(text: str) -> list[str]:
    """The words of a text in their order, casefolded."""
    if text.isascii():  # the same as below, four times as fast
        return text.lower().translate(_PUNCTUATION).split()
    return _WORD.findall(text.casefold())


def turns(row: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """All turns of a normalised row, in the order in which they are read."""
    for key in TURNS:
        yield from row.get(key) or ()


def text(row: dict[str, Any]) -> str:
    """All text of a normalised row."""
    return row["text"] if "text" in row else "\n".join(turn["content"] for turn in turns(row))
