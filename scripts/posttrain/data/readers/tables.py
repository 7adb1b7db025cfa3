"""What Parquet and Arrow files have in common: record batches, whose rows may have nulls in the place of missing fields."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from posttrain.data.readers.text import first_line
from posttrain.runtime.errors import UserError


def numbered(
    path: Path, batches: Callable[[], Iterable[Any]], kind: str, rows_of: Callable[[int], int]
) -> Iterator[tuple[int, Any]]:
    """Record batches of few rows, each with the number of rows before it.

    Args:
        batches: opens the file.
        kind: of file, for messages, such as `a Parquet`.
        rows_of: how many rows a batch has at most, by the bytes of one.
    """
    import pyarrow as pa

    before = 0
    try:
        for batch in batches():
            check_names(path, batch.schema.names)
            rows = rows_of(batch.nbytes // max(1, len(batch)))
            for start in range(0, len(batch), rows):
                part = batch.slice(start, rows)
                part.validate(full=True)  # text that is not UTF-8 would only be noticed far from here
                if len(part) < len(batch):
                    part = part.take(pa.array(range(len(part))))  # a slice would take the whole along to its process
                yield before, part
                before += len(part)
    except (pa.ArrowException, OSError, MemoryError, UnicodeDecodeError) as error:  # memory: a broken length
        reason = first_line(error)
        if "UTF8" in reason or isinstance(error, UnicodeDecodeError):
            problem = "a string in it is not UTF-8"
            raise UserError("not-utf8", str(path), problem, "write it again as UTF-8") from None
        hint = f"check that it is whole ({reason})"
        raise UserError("unreadable-file", str(path), f"not {kind} file", hint) from None


def check_names(path: Path, names: list[str]) -> None:
    """Refuse two columns of one name."""
    twice = next((name for name, count in Counter(names).items() if count > 1), None)
    if twice is not None:
        raise UserError("unreadable-file", str(path), f"two columns have the name '{twice}'", "rename one of them")


def rows(batch: Any) -> list[dict[str, Any]]:
    """The rows of a record batch; a value is null where Python has none for it, such as for a date in the year 20000."""
    import pyarrow as pa

    try:
        found = batch.to_pylist()
    except (ValueError, OverflowError):
        columns = map(_values, batch)
        found = [dict(zip(batch.schema.names, values, strict=True)) for values in zip(*columns, strict=True)]
    nested = [field.name for field in batch.schema if pa.types.is_nested(field.type)]
    for row in found:
        for name in nested:
            row[name] = _without_nulls(row[name])
    return found


def _without_nulls(value: Any) -> Any:
    """A value without the fields that are null: a table's schema gives every object the fields of all of them."""
    if isinstance(value, dict):
        return {key: _without_nulls(inner) for key, inner in value.items() if inner is not None}
    return [_without_nulls(inner) for inner in value] if isinstance(value, list) else value


def _values(column: Any) -> list[Any]:
    try:
        return column.to_pylist()
    except (ValueError, OverflowError):
        return [None] * len(column)
