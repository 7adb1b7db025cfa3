"""The media of a dataset's rows as a base reads them: marks in the turns, placeholders in the rendered text, files by name."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from posttrain.data import sounds
from posttrain.data.messages import Row, Turns


class Text(NamedTuple):
    """A rendered text with its placeholders as often as the model reads them."""

    text: str
    spans: list[tuple[int, int]]
    """first and last character of each answer in it"""
    media: dict[str, list[str]]
    """names of the files that it is about, by column"""
    media_spans: list[tuple[int, int]]
    """first and last character of each picture or sound in it"""


class Reader(NamedTuple):
    """What reads the media of a dataset's rows for a base."""

    processor: Any
    """the base's, see models/processors.py"""
    folder: Path
    """of the dataset, to which the names of files are relative"""

    def turns(self, turns: Turns) -> Turns:
        """Turns with their marks as the base's chat template takes them."""
        return self.processor.turns(turns)

    def opened(self, row: Row) -> dict[str, list[Any]]:
        """The pictures or sounds of a row, by column."""
        columns = self.processor.columns
        return {
            name: [self.processor.open(name, self.folder / file) for file in row[name]]
            for name in columns
            if row.get(name)
        }

    def is_too_long(self, row: Row) -> bool:
        """Whether a sound of a row is longer than the base listens, which would cut it."""
        files = [self.folder / file for file in row.get("audios") or ()]
        return any(sounds.header(file).seconds > self.processor.longest for file in files)

    def expanded(self, text: str, spans: Sequence[tuple[int, int]], row: Row, is_whole: bool = True) -> Text:
        """A text that was rendered of a row, or of the beginning of one, with its placeholders expanded.

        Args:
            spans: of the answers.
            is_whole: whether it is about all media of the row.
        """
        counts = self.processor.counts(text)
        names = {column: row[column] for column in self.processor.columns if column in row}
        if not is_whole:
            names = {column: files[: counts[column]] for column, files in names.items()}
        made = self.processor.expand(text, self.opened(names))
        moved = [tuple(_moved(place, made.before, made.spans) for place in span) for span in spans]
        return Text(made.text, moved, names, made.spans)


def _moved(place: int, before: list[tuple[int, int]], after: list[tuple[int, int]]) -> int:
    """Where a character of a text stands once its placeholders are expanded."""
    shift = 0
    for (_, old), (_, new) in zip(before, after, strict=True):
        shift = new - old if old <= place else shift
    return place + shift
