"""Read the rows of a data file of any known kind, block by block, so that memory does not grow with the file.

A block is what one process parses at a time: a piece of about a megabyte, with the number of its first row or line.
"""

import codecs
import csv
import fnmatch
import glob
import io
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice, zip_longest
from pathlib import Path
from typing import Any, NamedTuple

from posttrain.data import delimiters, json_arrays, saved_datasets
from posttrain.runtime.errors import UserError, nearest

BLOCK_BYTES = 1 << 20
BLOCK_ROWS = 2000
MANY_FILES = 100_000
LONGEST_LINE = 16 * BLOCK_BYTES
PACKED, SMALL = 100, 1 << 28  # what unpacks to more bytes than SMALL is at most PACKED times its packed size
COMPRESSED = (".gz", ".zst")
SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".arrow")
ARROW_FILE, ARROW_END = b"ARROW1\0\0", b"\xff\xff\xff\xff\0\0\0\0"  # a file's begin, a stream's end


class Block(NamedTuple):
    """Consecutive rows of a file."""

    file: str
    numbers: list[int]
    """the line of each row, or its number in a table, from 1"""
    rows: Any
    """rows as JSON in bytes, parsed rows, or a pyarrow.RecordBatch, whose nulls inside of objects are no fields"""

    def __len__(self) -> int:
        """How many rows it has."""
        return len(self.numbers)

    def parse(self) -> Iterator[tuple[str, Any]]:
        """Place and row, one after the other; a row that cannot be parsed is a UserError instead."""
        rows = self.rows if isinstance(self.rows, list) else _table_rows(self.rows)
        for number, row in zip(self.numbers, rows, strict=True):
            place = f"{self.file} line {number}"
            yield place, _parsed(place, number, row) if isinstance(row, bytes) else row


def suffix(path: Path) -> str:
    """The kind of a file's content, `.gz` and `.zst` taken off.

    Raises:
        UserError: it is none that can be read.
    """
    kind = _unpacked(path)
    if kind not in SUFFIXES:
        raise UserError(f"{path}: unknown kind of file '{kind}'; {nearest(kind, SUFFIXES)}, and .gz or .zst of these")
    return kind


def _unpacked(path: Path) -> str:
    return Path(path.stem).suffix if path.suffix in COMPRESSED else path.suffix


def expand(pattern: str, folder: Path = Path()) -> list[Path]:
    """The files that a path, a glob or a folder stands for, sorted, relative to `folder`; none where there is none.

    Raises:
        UserError: a folder of too many files, such as `/`, would have to be searched.
    """
    path = folder / pattern
    if is_file(path):
        return [Path(pattern)]
    if is_folder(path):
        names = saved_datasets.files(path)
        if names is not None:
            return [Path(pattern, name) for name in names if is_file(path / name)]
        return sorted(file for file in _found(Path(pattern), ["**"], folder) if is_data(file))
    parts = Path(pattern).parts
    start = next((i for i, part in enumerate(parts) if glob.has_magic(part)), len(parts))
    return sorted(_found(Path(*parts[:start]), parts[start:], folder)) if start < len(parts) else []


def is_file(path: Path) -> bool:
    """Whether there is a regular file, no pipe and no device; also of a name that no file system takes."""
    return os.path.isfile(path)  # noqa: PTH113  (Path.is_file raises for a name that is too long)


def is_folder(path: Path) -> bool:
    """Whether there is a folder; also of a name that no file system takes."""
    return os.path.isdir(path)  # noqa: PTH112


def _found(top: Path, parts: Sequence[str], folder: Path) -> set[Path]:
    """The files under `top` that a glob's parts stand for; `**` follows no links, which may lead round in a circle."""
    files, waiting, looked_at = set(), [(str(top), 0)], 0
    while waiting:
        place, i = waiting.pop()
        part, last = parts[i], i + 1 == len(parts)
        if part == "**" and not last:
            waiting.append((place, i + 1))
        if not glob.has_magic(part):
            here = f"{place}/{part}"
            if not last:
                waiting.append((here, i + 1))
            elif is_file(folder / here):
                files.add(Path(here))
            continue
        for entry in _entries(folder / place):
            looked_at += 1
            if entry.name.startswith(".") and not part.startswith("."):
                continue
            if part == "**" and entry.is_dir(follow_symlinks=False):
                waiting.append((f"{place}/{entry.name}", i))
            elif (part == "**" and last) or (part != "**" and fnmatch.fnmatchcase(entry.name, part)):
                if not last:
                    waiting.append((f"{place}/{entry.name}", i + 1))
                elif is_file(entry.path):
                    files.add(Path(place, entry.name))
        if looked_at > MANY_FILES:
            raise UserError(
                f"{top}: the search for rows stops after {MANY_FILES:,} files and folders; name the files, or a smaller folder"
            )
    return files


def _entries(folder: Path) -> list[os.DirEntry]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except (OSError, ValueError):  # no folder, or none that may be read
        return []


def is_data(path: Path) -> bool:
    """Whether a file's name says that it holds rows: a folder has its card, its licence and its description as well."""
    return _unpacked(path) in SUFFIXES and path.name not in saved_datasets.DESCRIPTIONS


def blocks(path: Path) -> Iterator[Block]:
    """The blocks of a file.

    Raises:
        UserError: the file as a whole cannot be read; what is wrong with one row is found by `Block.parse`.
    """
    name = str(path)
    if "\n" in name or name.encode("utf-8", "replace").decode() != name:  # it is in each row's place
        raise UserError(f"{name!r}: the file's name is not one line of UTF-8; rename it")
    tables = {".csv": _csv, ".tsv": _csv, ".parquet": _parquet, ".arrow": _arrow}
    read = ({".jsonl": _jsonl, ".json": _json} | tables)[suffix(path)]
    if not is_file(path):  # reading a pipe or a device would never end
        raise UserError(f"{path}: there is no such file; check the path")
    if path.stat().st_size == 0:
        raise UserError(f"{path}: the file is empty; write at least one row")
    try:
        yield from read(path)
    except (OSError, EOFError) as error:
        raise UserError(
            f"{path}: it cannot be read to its end; check that it is whole ({_first_line(error)})"
        ) from None


# ---- one reader a kind of file


def _open(path: Path) -> io.BufferedReader:
    if path.suffix not in COMPRESSED:
        return path.open("rb")
    return io.BufferedReader(_Unpacked(path), BLOCK_BYTES)


class _Unpacked(io.RawIOBase):
    """What a .gz or .zst file unpacks to, as far as that is in proportion: a few kilobytes can unpack to terabytes."""

    def __init__(self, path: Path) -> None:
        import pyarrow as pa

        self.path, self.read_so_far = path, 0
        self.most = max(SMALL, PACKED * path.stat().st_size)
        self.stream = pa.input_stream(str(path), compression={".gz": "gzip", ".zst": "zstd"}[path.suffix])

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = self.stream.readinto(buffer)
        self.read_so_far += count
        if self.read_so_far > self.most:
            raise _too_much(self.path)
        return count

    def close(self) -> None:
        if not self.closed:
            self.stream.close()
        super().close()


def _too_much(path: Path) -> UserError:
    return UserError(
        f"{path}: it unpacks to more than {PACKED} times its size, as what is made to fill a memory or a disk does; unpack it "
        "yourself where that is meant"
    )


def _jsonl(path: Path) -> Iterator[Block]:
    line = 0
    with _open(path) as file:
        for raw in _lines(path, file):
            rows = [(number, row) for number, row in enumerate(raw, line + 1) if row.strip()]
            yield Block(str(path), [number for number, _ in rows], [row for _, row in rows])
            line += len(raw)


def _lines(path: Path, file: io.BufferedReader) -> Iterator[list[bytes]]:
    """A file's lines, about a block's at a time.

    Raises:
        UserError: a line is so long that it would have to be something else.
    """
    line, rest = 1, b""
    while piece := file.read(BLOCK_BYTES):
        *whole, rest = (rest + piece).split(b"\n")
        line += len(whole)
        if len(rest) > LONGEST_LINE:
            raise UserError(f"{path} line {line}: it is longer than {LONGEST_LINE >> 20} MiB; write a row a line")
        if whole:
            yield whole
    if rest:
        yield [rest]


def _json(path: Path) -> Iterator[Block]:
    """One list of rows, or, as the hub often has it, a row a line."""
    yield from _jsonl(path) if _has_lines(path) else _blocks(path, _items(path))


def _has_lines(path: Path) -> bool:
    with _open(path) as file:
        if not file.peek(4).removeprefix(codecs.BOM_UTF8).startswith(b"{"):
            return False
        first, second = file.readline(BLOCK_BYTES).strip(), file.readline(2)
        return first.endswith(b"}") and second.startswith(b"{")


def _items(path: Path) -> Iterator[tuple[int, Any]]:
    """Line and row, as JSON, of one long list: a row that is nested deeply can be parsed, but not sent to a process."""
    decoder = json.JSONDecoder()
    with _open(path) as file:
        text = _text(path, file)
        buffer = next(text, "")
        position = _begin(path, buffer)
        inside = buffer.lstrip().startswith("{")
        line, column = 1 + buffer.count("\n", 0, position), 0  # of `position`; of the buffer's begin
        while True:
            blank = _BLANK.match(buffer, position).end()
            line += buffer.count("\n", position, blank)
            position = blank
            if buffer.startswith("]", position):
                rest = chain([buffer[position + 1 :]], text)
                (_check_object_end if inside else _check_end)(path, line, rest)
                return
            try:
                end = decoder.raw_decode(buffer, position)[1]
            except (ValueError, RecursionError):
                more = "".join(islice(text, 1 + len(buffer) // BLOCK_BYTES))
                column, buffer, position = _column(column, buffer, position), buffer[position:], 0
                if not more or len(buffer) > 16 * BLOCK_BYTES:
                    if buffer:
                        _check_json(path, line, buffer, column)
                    raise UserError(f"{path} line {line}: invalid JSON: the list does not end; is it cut?") from None
                buffer += more
                continue
            yield line, buffer[position:end].encode()
            line += buffer.count("\n", position, end)
            position = end
            if end >= BLOCK_BYTES:
                column, buffer, position = _column(column, buffer, end), buffer[end:], 0


_BLANK = re.compile(r"[\s,]*")


def _column(column: int, buffer: str, position: int) -> int:
    """How many characters of its line stand before a position of the buffer, which has `column` of them before it."""
    newline = buffer.rfind("\n", 0, position)
    return position - newline - 1 if newline >= 0 else column + position


# Fields of a row that hold a list of objects: an object with one of them is a row itself.
_TURNS = frozenset({"messages", "conversations", "prompt", "completion", "chosen", "rejected", "segments", "tools"})


def _begin(path: Path, text: str) -> int:
    """Where the first row of a JSON file stands in its beginning."""
    start = text.lstrip()
    if not start:
        raise UserError(f"{path}: the file is empty; write at least one row")
    found = json_arrays.begin(text, _TURNS)
    if found is None:
        if not start.startswith("{"):
            _check_json(path, 1, text)
        kind = "an object" if start.startswith("{") else "a single value"
        raise UserError(
            f"{path}: a .json file is one list of rows, or an object with the list under one key, and this is {kind}; write a list, "
            "or a row a line in a file that is named .jsonl"
        )
    return found


def _check_object_end(path: Path, line: int, rest: Iterable[str]) -> None:
    """Refuse an object that has more rows, or no end, behind its list of rows."""
    text = "".join(islice(rest, 4))
    others = json_arrays.several(text)
    if others is None:
        raise UserError(
            f"{path} line {line}: invalid JSON: the object does not end behind its list of rows; is it cut?"
        )
    if others:
        raise UserError(f"{path}: rows stand under more than one key, such as '{others[0]}'; write a file for each")


def _check_end(path: Path, line: int, rest: Iterable[str]) -> None:
    if any(piece.strip() for piece in rest):
        raise UserError(f"{path} line {line}: invalid JSON: there is more behind the end of the list; write one list")


def _text(path: Path, file: io.BufferedReader) -> Iterator[str]:
    """A file's text in pieces, without a byte order mark."""
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    line = 1
    column = 0  # bytes of the line before this piece
    while True:
        raw = file.read(BLOCK_BYTES)
        try:
            piece = decoder.decode(raw, final=not raw)
        except UnicodeDecodeError as error:
            before = error.object[: error.start]
            byte = len(before) - before.rfind(b"\n") + (0 if b"\n" in before else column)
            place = f"{path} line {line + before.count(bytes([10]))}"
            raise UserError(f"{place}: not UTF-8 at byte {byte}; save the file as UTF-8") from None
        if piece:
            yield piece
        if not raw:
            return
        line += piece.count("\n")
        newline = piece.rfind("\n")
        column = len(piece[newline + 1 :].encode()) + (column if newline < 0 else 0)


def _csv(path: Path) -> Iterator[Block]:
    yield from _blocks(path, _csv_rows(path))


def _csv_rows(path: Path) -> Iterator[tuple[int, Any]]:
    """Row, and the line in which it begins: a quoted cell may have several."""
    csv.field_size_limit(16 * BLOCK_BYTES)  # a quote that is never closed takes in all that follows
    with _open(path) as file:
        lines = (
            _decode(f"{path} line {number}", number, raw + b"\n")
            for number, raw in enumerate(chain.from_iterable(_lines(path, file)), 1)
        )
        first = list(islice(lines, delimiters.SAMPLE))
        named = delimiters.declared(first[0]) if first else None
        first = first[1:] if named else first
        separator = named or delimiters.delimiter(first, suffix(path))
        reader = csv.reader(chain(first, lines), strict=True, delimiter=separator)
        skipped = 1 if named else 0
        header, begin = None, 1 + skipped
        try:
            for cells in reader:
                if header is None:
                    header = cells or None
                    _check_names(path, cells)
                elif cells:
                    yield begin, _csv_row(header, cells)
                begin = reader.line_num + 1 + skipped
        except csv.Error as error:
            raise UserError(f"{path} line {begin}: invalid CSV: {error}") from None


def _csv_row(header: list[str], cells: list[str]) -> dict[str | None, Any]:
    """Fields that a row does not have are null; what it has more than the header stands under None."""
    row: dict[str | None, Any] = dict(zip_longest(header, cells[: len(header)]))
    return row | {None: cells[len(header) :]} if len(cells) > len(header) else row


def _parquet(path: Path) -> Iterator[Block]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with _open(path) as file:
        source = file if path.suffix == ".parquet" else io.BytesIO(file.read())
        options = {"pre_buffer": False, "buffer_size": BLOCK_BYTES}  # else the whole file is in memory by the end

        def batches() -> Iterable[pa.RecordBatch]:
            table = pq.ParquetFile(source, **options)
            groups = (table.metadata.row_group(i) for i in range(table.num_row_groups))
            if sum(group.total_byte_size for group in groups) > max(SMALL, PACKED * path.stat().st_size):
                raise _too_much(path)
            return table.iter_batches(BLOCK_ROWS)

        yield from _tables(path, batches, "a Parquet")


def _arrow(path: Path) -> Iterator[Block]:
    import pyarrow as pa

    def batches() -> Iterable[pa.RecordBatch]:
        if path.suffix in COMPRESSED:
            packed = _open(path)
            packed.read(len(ARROW_FILE) if packed.peek(1).startswith(ARROW_FILE) else 0)  # a stream follows
            return pa.ipc.open_stream(packed)
        mapped = pa.memory_map(str(path))
        try:
            reader = pa.ipc.open_file(mapped)
        except pa.ArrowInvalid:  # what `datasets` writes is a stream, without the file's index
            stream = pa.ipc.open_stream(pa.memory_map(str(path)))
            mapped.seek(mapped.size() - len(ARROW_END))
            if mapped.read() != ARROW_END:  # one that is cut between two batches reads like a whole one
                raise pa.ArrowInvalid("the end of the stream is missing") from None
            return stream
        return (reader.get_batch(i) for i in range(reader.num_record_batches))

    yield from _tables(path, batches, "an Arrow")


def _tables(path: Path, batches: Any, kind: str) -> Iterator[Block]:
    import pyarrow as pa

    row = 0
    try:
        for batch in batches():
            _check_names(path, batch.schema.names)
            for start in range(0, len(batch), BLOCK_ROWS):
                part = batch.slice(start, BLOCK_ROWS)
                part.validate(full=True)  # text that is not UTF-8 would only be noticed far from here
                if len(part) < len(batch):
                    part = part.take(pa.array(range(len(part))))  # a slice would take the whole along to its process
                yield Block(str(path), list(range(row + 1, row + len(part) + 1)), part)
                row += len(part)
    except (pa.ArrowException, OSError, MemoryError, UnicodeDecodeError) as error:  # memory: a broken length
        reason = _first_line(error)
        if "UTF8" in reason or isinstance(error, UnicodeDecodeError):
            raise UserError(f"{path}: a string in it is not UTF-8; write it again as UTF-8") from None
        raise UserError(f"{path}: not {kind} file; check that it is whole ({reason})") from None


def _table_rows(batch: Any) -> list[dict[str, Any]]:
    """A table's rows; a value is null where Python has none for it, such as for a date in the year 20000."""
    import pyarrow as pa

    try:
        rows = batch.to_pylist()
    except (ValueError, OverflowError):
        columns = map(_values, batch)
        rows = [dict(zip(batch.schema.names, values, strict=True)) for values in zip(*columns, strict=True)]
    nested = [field.name for field in batch.schema if pa.types.is_nested(field.type)]
    for row in rows:
        for name in nested:
            row[name] = _without_nulls(row[name])
    return rows


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


def _check_names(path: Path, names: list[str]) -> None:
    twice = next((name for name, count in Counter(names).items() if count > 1), None)
    if twice is not None:
        raise UserError(f"{path}: two columns have the name '{twice}'; rename one of them")


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


def _check_json(path: Path, first_line: int, text: str, column: int = 0) -> None:
    """Say where the JSON that begins in `first_line`, after `column` characters, is wrong; nothing where it is right."""
    try:
        json.JSONDecoder().raw_decode(text.lstrip())
    except json.JSONDecodeError as error:
        line = first_line + text[: len(text) - len(text.lstrip())].count("\n") + error.lineno - 1
        column = error.colno + (column if error.lineno == 1 else 0)
        raise UserError(f"{path} line {line}: invalid JSON at column {column}: {error.msg}") from None
    except (RecursionError, ValueError) as error:
        raise UserError(f"{path} line {first_line}: invalid JSON: {_why(error)}") from None


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _why(error: Exception) -> str:
    """What Python cannot read: too many levels, or a number of too many digits."""
    return "nested too deeply" if isinstance(error, RecursionError) else str(error).split(";")[0]
