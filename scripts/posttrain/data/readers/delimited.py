"""CSV and TSV files: cells separated by commas, or by semicolons or tabs, as Excel writes them."""

import csv
from collections.abc import Iterator
from itertools import chain, islice, zip_longest
from pathlib import Path
from typing import Any

from posttrain.data.readers import text
from posttrain.data.readers.blocks import Block, blocks
from posttrain.data.readers.tables import check_names
from posttrain.data.readers.text import decode, lines, open_file
from posttrain.runtime.errors import UserError

DELIMITERS = (",", ";", "\t")
SAMPLE = 50  # lines
_DECLARED = {f"sep={delimiter}": delimiter for delimiter in DELIMITERS}  # Excel's own first line


def read(path: Path) -> Iterator[Block]:
    """The blocks of a file."""
    yield from blocks(path, _rows(path))


def _rows(path: Path) -> Iterator[tuple[int, Any]]:
    """Row, and the line in which it begins: a quoted cell may have several."""
    csv.field_size_limit(16 * text.CHUNK_BYTES)  # a quote that is never closed takes in all that follows
    with open_file(path) as file:
        decoded = (
            decode(f"{path} line {number}", number, raw + b"\n")
            for number, raw in enumerate(chain.from_iterable(lines(path, file)), 1)
        )
        first = list(islice(decoded, SAMPLE))
        named = declared(first[0]) if first else None
        first = first[1:] if named else first
        separator = named or delimiter(first, ".tsv" if ".tsv" in path.suffixes[-2:] else ".csv")
        reader = csv.reader(chain(first, decoded), strict=True, delimiter=separator)
        skipped = 1 if named else 0
        header, begin = None, 1 + skipped
        try:
            for cells in reader:
                if header is None:
                    header = cells or None
                    check_names(path, cells)
                elif cells:
                    yield begin, _row(header, cells)
                begin = reader.line_num + 1 + skipped
        except csv.Error as error:
            raise UserError("unreadable-file", f"{path} line {begin}", f"invalid CSV: {error}") from None


def _row(header: list[str], cells: list[str]) -> dict[str | None, Any]:
    """Fields that a row does not have are null; what it has more than the header stands under None."""
    row: dict[str | None, Any] = dict(zip_longest(header, cells[: len(header)]))
    return row | {None: cells[len(header) :]} if len(cells) > len(header) else row


# ---- what separates the cells


def declared(line: str) -> str | None:
    """The delimiter that a file's first line names, as Excel writes and reads it: `sep=;`."""
    return _DECLARED.get(line.strip().strip('"')) if line.lower().startswith(("sep=", '"sep=')) else None


def delimiter(lines: list[str], suffix: str = ".csv") -> str:
    """What separates the cells of a file that begins with these lines.

    It is the first with which the header has several cells and all other rows as many, or else the one with which the header has
    the most.

    Args:
        suffix: `.tsv` files have tabs.
    """
    if suffix == ".tsv":
        return "\t"
    widths = {some: _widths(lines, some) for some in DELIMITERS}
    even = [some for some, found in widths.items() if found and found[0] > 1 and len(set(found)) == 1]
    return next(iter(even), max(DELIMITERS, key=lambda some: widths[some][0] if widths[some] else 0))


def _widths(lines: list[str], delimiter: str) -> list[int]:
    """Cells of each row; the last of many lines may end within a row."""
    reader = csv.reader(lines, delimiter=delimiter)
    try:
        found = [len(cells) for cells in islice(reader, SAMPLE) if cells]
    except csv.Error:
        return []
    return found[:-1] if len(lines) >= SAMPLE and len(found) > 1 else found
