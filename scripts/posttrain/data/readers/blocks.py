"""Blocks of rows: what one process parses at a time, about a megabyte, with the number of each row or line."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from posttrain.data.readers import tables
from posttrain.data.readers.text import parsed

BLOCK_ROWS = 2000
BLOCK_BYTES = 1 << 26  # of a table's rows, which may have pictures in them


class Block(NamedTuple):
    """Consecutive rows of a file."""

    file: str
    numbers: list[int]
    """the line of each row, or its number in a table, from 1"""
    rows: Any
    """rows as JSON in bytes, parsed rows, or a pyarrow.RecordBatch, in which nulls inside of objects stand for missing fields"""

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.numbers)

    def parse(self) -> Iterator[tuple[str, Any]]:
        """Place and row, one after the other; a row that cannot be parsed is a UserError instead."""
        rows = self.rows if isinstance(self.rows, list) else tables.rows(self.rows)
        for number, row in zip(self.numbers, rows, strict=True):
            place = f"{self.file} line {number}"
            yield place, parsed(place, number, row) if isinstance(row, bytes) else row


def rows_of(size: int) -> int:
    """How many rows of a table a block has at most.

    Args:
        size: bytes of a row.
    """
    return max(1, min(BLOCK_ROWS, BLOCK_BYTES // max(1, size)))


def blocks(path: Path, rows: Iterator[tuple[int, Any]]) -> Iterator[Block]:
    """Blocks of rows with their numbers."""
    while some := list(islice(rows, BLOCK_ROWS)):
        yield Block(str(path), [number for number, _ in some], [row for _, row in some])


def table_blocks(path: Path, batches: Any, kind: str) -> Iterator[Block]:
    """Blocks of a table's record batches, see `tables.numbered`."""
    for before, batch in tables.numbered(path, batches, kind, rows_of):
        yield Block(str(path), list(range(before + 1, before + len(batch) + 1)), batch)
