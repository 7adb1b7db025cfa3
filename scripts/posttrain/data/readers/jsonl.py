"""JSON lines: a row a line."""

from collections.abc import Iterator
from pathlib import Path

from posttrain.data.readers.blocks import Block
from posttrain.data.readers.text import lines, open_file


def read(path: Path) -> Iterator[Block]:
    """The blocks of a file; rows are parsed later, by several processes."""
    line = 0
    with open_file(path) as file:
        for raw in lines(path, file):
            rows = [(number, row) for number, row in enumerate(raw, line + 1) if row.strip()]
            yield Block(str(path), [number for number, _ in rows], [row for _, row in rows])
            line += len(raw)
