"""Read the rows of a data file of any known kind, block by block, so that memory does not grow with the file.

A block is what one process parses at a time: a piece of about a megabyte, with the number of its first row or line.
"""

import codecs
import csv
import glob
import io
import json
import re
import sys
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from posttrain.errors import UserError, nearest

BLOCK_BYTES = 1 << 20
BLOCK_ROWS = 2000
COMPRESSED = (".gz", ".zst")
SUFFIXES = (".jsonl", ".json", ".csv", ".parquet", ".arrow")


class Block(NamedTuple):
    """Consecutive rows of a file."""

    file: str
    numbers: list[int]
    """the line of each row, or its number in a table, from 1"""
    rows: Any
    """bytes of JSON lines, parsed rows, or a pyarrow.RecordBatch"""

    def __len__(self) -> int:
        return len(self.numbers)

    def parse(self) -> Iterator[tuple[str, Any]]:
        """Place and row, one after the other; a row that cannot be parsed is a UserError instead."""
        rows = self.rows if isinstance(self.rows, list) else self.rows.to_pylist()
        for number, row in zip(self.numbers, rows, strict=True):
            place = f"{self.file} line {number}"
            yield place, _parsed(place, number, row) if isinstance(row, bytes) else row


def suffix(path: Path) -> str:
    """The kind of a file's content, `.gz` and `.zst` taken off.

    Raises:
        UserError: it is none that can be read.
    """
    kind = Path(path.stem).suffix if path.suffix in COMPRESSED else path.suffix
    if kind not in SUFFIXES:
        raise UserError(f"{path}: unknown kind of file '{kind}'; {nearest(kind, SUFFIXES)}, and .gz or .zst of these")
    return kind


def expand(pattern: str, folder: Path = Path()) -> list[Path]:
    """The files that a path, a glob or a folder stands for, sorted, relative to `folder`; none where there is none."""
    path = folder / pattern
    if path.is_file():
        return [Path(pattern)]
    if path.is_dir():
        found = [file for file in path.rglob("*") if file.is_file() and ".cache" not in file.parts and is_data(file)]
        return sorted(Path(pattern) / file.relative_to(path) for file in found)
    return sorted(Path(name) for name in glob.glob(pattern, root_dir=folder, recursive=True) if (folder / name).is_file())


def is_data(path: Path) -> bool:
    """Whether a file's name says that it holds rows: a folder has its card, its licence and its description as well."""
    kind = Path(path.stem).suffix if path.suffix in COMPRESSED else path.suffix
    return kind in SUFFIXES and path.name not in ("dataset_info.json", "dataset_infos.json", "state.json")


def blocks(path: Path) -> Iterator[Block]:
    """The blocks of a file.

    Raises:
        UserError: the file as a whole cannot be read; what is wrong with one row is found by `Block.parse`.
    """
    read = {".jsonl": _jsonl, ".json": _json, ".csv": _csv, ".parquet": _parquet, ".arrow": _arrow}[suffix(path)]
    if not path.exists():
        raise UserError(f"{path}: there is no such file; check the path")
    if path.stat().st_size == 0:
        raise UserError(f"{path}: the file is empty; write at least one row")
    try:
        yield from read(path)
    except (OSError, EOFError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path}: it cannot be read to its end; check that it is whole ({reason})") from None


# ---- one reader a kind of file


def _open(path: Path) -> io.BufferedReader:
    if path.suffix not in COMPRESSED:
        return path.open("rb")
    import pyarrow as pa

    return io.BufferedReader(pa.input_stream(str(path), compression={".gz": "gzip", ".zst": "zstd"}[path.suffix]))


def _jsonl(path: Path) -> Iterator[Block]:
    line = 0
    with _open(path) as file:
        while raw := file.readlines(BLOCK_BYTES):
            rows = [(number, row) for number, row in enumerate(raw, line + 1) if row.strip()]
            yield Block(str(path), [number for number, _ in rows], [row for _, row in rows])
            line += len(raw)


def _json(path: Path) -> Iterator[Block]:
    yield from _blocks(path, _items(path))


def _items(path: Path) -> Iterator[tuple[int, Any]]:
    """Line and row of one long list, parsed piece by piece."""
    decoder = json.JSONDecoder()
    with _open(path) as file:
        text = _text(path, file)
        buffer = next(text)
        if not buffer.lstrip().startswith("["):
            _check_json(path, 1, buffer + "".join(text))
            raise UserError(f"{path}: a .json file is one list of rows, and this is an object; or name it .jsonl")
        position = buffer.index("[") + 1
        line = 1 + buffer.count("\n", 0, position)
        while True:
            blank = _BLANK.match(buffer, position).end()
            line += buffer.count("\n", position, blank)
            position = blank
            if buffer.startswith("]", position):
                return
            try:
                row, end = decoder.raw_decode(buffer, position)
            except (ValueError, RecursionError):
                more = "".join(islice(text, 1 + len(buffer) // BLOCK_BYTES))
                if not more or len(buffer) - position > 16 * BLOCK_BYTES:
                    _check_json(path, line, buffer[position:])
                    raise UserError(f"{path} line {line}: invalid JSON: the list does not end; is it cut?") from None
                buffer, position = buffer[position:] + more, 0
                continue
            yield line, row
            line += buffer.count("\n", position, end)
            buffer, position = (buffer, end) if end < BLOCK_BYTES else (buffer[end:], 0)


_BLANK = re.compile(r"[\s,]*")


def _text(path: Path, file: io.BufferedReader) -> Iterator[str]:
    """A file's text in pieces, without a byte order mark."""
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    line = 1
    column = 0  # bytes of the line before this piece
    while raw := file.read(BLOCK_BYTES):
        try:
            piece = decoder.decode(raw)
        except UnicodeDecodeError as error:
            before = error.object[: error.start]
            byte = len(before) - before.rfind(b"\n") + (0 if b"\n" in before else column)
            place = f"{path} line {line + before.count(bytes([10]))}"
            raise UserError(f"{place}: not UTF-8 at byte {byte}; save the file as UTF-8") from None
        yield piece
        line += piece.count("\n")
        column = len(raw) - raw.rfind(b"\n") - 1 if b"\n" in raw else column + len(raw)


def _csv(path: Path) -> Iterator[Block]:
    yield from _blocks(path, _csv_rows(path))


def _csv_rows(path: Path) -> Iterator[tuple[int, Any]]:
    csv.field_size_limit(sys.maxsize)
    with _open(path) as file:
        lines = (_decode(f"{path} line {number}", number, raw) for number, raw in enumerate(file, 1))
        reader = csv.DictReader(lines, strict=True)
        try:
            for row in reader:
                yield reader.line_num, row
        except csv.Error as error:
            raise UserError(f"{path} line {reader.line_num}: invalid CSV: {error}") from None


def _parquet(path: Path) -> Iterator[Block]:
    import pyarrow.parquet as pq

    with _open(path) as file:
        source = file if path.suffix == ".parquet" else io.BytesIO(file.read())
        yield from _tables(path, lambda: pq.ParquetFile(source).iter_batches(BLOCK_ROWS), "Parquet")


def _arrow(path: Path) -> Iterator[Block]:
    import pyarrow as pa

    def batches() -> Iterable[pa.RecordBatch]:
        if path.suffix in COMPRESSED:
            return pa.ipc.open_stream(_open(path))
        mapped = pa.memory_map(str(path))
        try:
            reader = pa.ipc.open_file(mapped)
        except pa.ArrowInvalid:  # what `datasets` writes is a stream, without the file's index
            return pa.ipc.open_stream(pa.memory_map(str(path)))
        return (reader.get_batch(i) for i in range(reader.num_record_batches))

    yield from _tables(path, batches, "Arrow")


def _tables(path: Path, batches: Any, kind: str) -> Iterator[Block]:
    import pyarrow as pa

    row = 0
    try:
        for batch in batches():
            for start in range(0, len(batch), BLOCK_ROWS):
                part = batch.slice(start, BLOCK_ROWS)
                part.validate(full=True)  # text that is not UTF-8 would only be noticed far from here
                yield Block(str(path), list(range(row + 1, row + len(part) + 1)), part)
                row += len(part)
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        if "UTF8" in reason:
            raise UserError(f"{path}: a string in it is not UTF-8; write it again as UTF-8") from None
        raise UserError(f"{path}: not a {kind} file; check that it is whole ({reason})") from None


def _blocks(path: Path, rows: Iterator[tuple[int, Any]]) -> Iterator[Block]:
    while some := list(islice(rows, BLOCK_ROWS)):
        yield Block(str(path), [number for number, _ in some], [row for _, row in some])


# ---- text to values


def _decode(place: str, number: int, raw: bytes) -> str:
    try:
        return raw.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{place}: not UTF-8 at byte {error.start + 1}; save the file as UTF-8") from None


def _parsed(place: str, number: int, raw: bytes) -> Any:
    """The value of a JSON line, or the UserError that says why there is none."""
    try:
        return _load(place, _decode(place, number, raw.rstrip()))
    except UserError as error:
        return error


def _load(place: str, text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{place}: invalid JSON at column {error.colno}: {error.msg}") from None
    except (RecursionError, ValueError) as error:
        raise UserError(f"{place}: invalid JSON: {_why(error)}") from None


def _check_json(path: Path, first_line: int, text: str) -> None:
    """Say where the JSON that begins in `first_line` is wrong; nothing where it is right."""
    try:
        json.JSONDecoder().raw_decode(text.lstrip())
    except json.JSONDecodeError as error:
        line = first_line + text[: len(text) - len(text.lstrip())].count("\n") + error.lineno - 1
        raise UserError(f"{path} line {line}: invalid JSON at column {error.colno}: {error.msg}") from None
    except (RecursionError, ValueError) as error:
        raise UserError(f"{path} line {first_line}: invalid JSON: {_why(error)}") from None


def _why(error: Exception) -> str:
    """What Python cannot read: too many levels, or a number of too many digits."""
    return "nested too deeply" if isinstance(error, RecursionError) else str(error).split(";")[0]
