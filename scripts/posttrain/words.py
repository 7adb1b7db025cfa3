"""A row's words, as duplicates and overlaps are found by them: no case, no punctuation."""

import re
from collections.abc import Iterator
from typing import Any

# Scripts written without spaces give a word a character; every other run of letters and digits is a word.
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_ALONE = re.compile(f"[{_UNSPACED}]")
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+")
_FOREIGN = re.compile(r"[^\x00-\x7f]+")
_BLANKED = bytes(code if code > 127 or chr(code).isalnum() or chr(code) == "_" else 32 for code in range(256))

TURNS = ("messages", "prompt", "chosen", "rejected", "completion")


def words(text: str) -> list[str]:
    """The words of a text in their order, casefolded."""
    text = text.casefold()
    raw = text.encode("utf-8", "surrogatepass")
    if len(raw) - len(text) > len(text) // 50:
        return _WORD.findall(text)
    if len(raw) > len(text):  # a curly quote here and there; from here on it is several times as fast as the expression
        raw = _FOREIGN.sub(_blanked, text).encode("utf-8", "surrogatepass")
    return raw.translate(_BLANKED).decode("utf-8", "surrogatepass").split()


def _blanked(match: re.Match) -> str:
    """Characters beyond ASCII, with blanks for signs and around what is a word of its own."""
    return "".join(
        f" {character} " if _ALONE.match(character) else character if character.isalnum() else " "
        for character in match[0]
    )


def turns(row: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """All turns of a normalised row, in the order in which they are read."""
    for key in TURNS:
        yield from row.get(key) or ()


def text(row: dict[str, Any]) -> str:
    """All text of a normalised row."""
    return row["text"] if "text" in row else "\n".join(turn["content"] for turn in turns(row))
