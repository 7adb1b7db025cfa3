"""What separates the cells of a CSV file: commas, or what Excel writes instead of them, semicolons or tabs."""

import csv
from itertools import islice

DELIMITERS = (",", ";", "\t")
SAMPLE = 50  # lines
_DECLARED = {f"sep={delimiter}": delimiter for delimiter in DELIMITERS}  # Excel's own first line


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
