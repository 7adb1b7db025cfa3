"""Pictures and sounds in the decoded rows of the preflight, in words: their hundreds of placeholders tell a person nothing."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from posttrain.data import pictures, sounds
from posttrain.data.media_text import Reader
from posttrain.data.messages import Row


def in_words(reader: Reader | None, tokens: Row) -> Callable[[str], str]:
    """A function that writes `[image 640x480 → 64 tokens]` in the place of each file of a row in its decoded text.

    Args:
        reader: of the row's files; None where it has none.
        tokens: the row.
    """
    replaced = [
        pair
        for column in (reader.processor.columns if reader else ())
        for name in tokens.get(column) or ()
        for pair in [_place(reader, column, reader.folder / name)]
    ]

    def written(text: str) -> str:
        start = 0
        for placeholders, words in replaced:
            at = text.find(placeholders, start)
            if at >= 0:
                text = text[:at] + words + text[at + len(placeholders) :]
                start = at + len(words)
        return text

    return written


def _place(reader: Reader, column: str, file: Path) -> tuple[str, str]:
    """What stands in a text for a file, and the words for it."""
    processor: Any = reader.processor
    text = processor.alone(column, processor.open(column, file))
    count = len(processor.tokenizer(text, add_special_tokens=False)["input_ids"])
    if column == "images":
        held = pictures.header(file)
        said = f"image {held.width}x{held.height}"
    else:
        said = f"audio {sounds.header(file).seconds:.2f} s"
    return text, f"[{said} → {count} tokens]"
