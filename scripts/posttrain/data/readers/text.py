"""The bytes, lines and text of a file, unpacked where it is compressed, and JSON values in them."""

import codecs
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from posttrain.runtime.errors import UserError

COMPRESSED = (".gz", ".zst")
CHUNK_BYTES = 1 << 20
MAX_LINE_BYTES = 16 * CHUNK_BYTES
MAX_RATIO, MIN_LIMIT = (
    100,
    1 << 28,
)  # what unpacks to more bytes than MIN_LIMIT is at most MAX_RATIO times its packed size


def open_file(path: Path) -> io.BufferedReader:
    """A file's bytes, unpacked where its name ends with .gz or .zst."""
    if path.suffix not in COMPRESSED:
        return path.open("rb")
    return io.BufferedReader(_Unpacked(path), CHUNK_BYTES)


class _Unpacked(io.RawIOBase):
    """What a .gz or .zst file unpacks to, within limits: a few kilobytes can unpack to terabytes."""

    def __init__(self, path: Path) -> None:
        import pyarrow as pa

        self.path, self.read_so_far, self.limit = path, 0, max_unpacked(path)
        self.stream = pa.input_stream(str(path), compression={".gz": "gzip", ".zst": "zstd"}[path.suffix])

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = self.stream.readinto(buffer)
        self.read_so_far += count
        if self.read_so_far > self.limit:
            raise too_large(self.path)
        return count

    def close(self) -> None:
        if not self.closed:
            self.stream.close()
        super().close()


def max_unpacked(path: Path) -> int:
    """How many bytes a compressed file may unpack to."""
    return max(MIN_LIMIT, MAX_RATIO * path.stat().st_size)


def too_large(path: Path) -> UserError:
    """The refusal of a file that unpacks to more than `max_unpacked`."""
    return UserError(
        "unreadable-file",
        str(path),
        f"it unpacks to more than {MAX_RATIO} times its size, as files that are made to fill a memory or a disk do",
        "unpack it yourself if that is intended",
    )


def lines(path: Path, file: io.BufferedReader) -> Iterator[list[bytes]]:
    """A file's lines, about a chunk's at a time.

    Raises:
        UserError: a line is too long for one row.
    """
    line, rest = 1, b""
    while piece := file.read(CHUNK_BYTES):
        *whole, rest = (rest + piece).split(b"\n")
        line += len(whole)
        if len(rest) > MAX_LINE_BYTES:
            problem = f"it is longer than {MAX_LINE_BYTES >> 20} MiB"
            raise UserError("unreadable-file", f"{path} line {line}", problem, "write a row a line")
        if whole:
            yield whole
    if rest:
        yield [rest]


def chunks(path: Path, file: io.BufferedReader) -> Iterator[str]:
    """A file's text in chunks, without a byte order mark."""
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    line = 1
    column = 0  # bytes of the line before this chunk
    while True:
        raw = file.read(CHUNK_BYTES)
        try:
            chunk = decoder.decode(raw, final=not raw)
        except UnicodeDecodeError as error:
            before = error.object[: error.start]
            byte = len(before) - before.rfind(b"\n") + (0 if b"\n" in before else column)
            raise _not_utf8(f"{path} line {line + before.count(bytes([10]))}", byte) from None
        if chunk:
            yield chunk
        if not raw:
            return
        line += chunk.count("\n")
        newline = chunk.rfind("\n")
        column = len(chunk[newline + 1 :].encode()) + (column if newline < 0 else 0)


def decode(place: str, number: int, raw: bytes) -> str:
    """The text of line `number`."""
    try:
        return raw.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise _not_utf8(place, error.start + 1) from None


def _not_utf8(place: str, byte: int) -> UserError:
    return UserError("not-utf8", place, f"not UTF-8 at byte {byte}", "save the file as UTF-8")


# ---- JSON


def parsed(place: str, number: int, raw: bytes) -> Any:
    """The value of a JSON line, or the UserError that says why there is none."""
    try:
        return _load(place, decode(place, number, raw.rstrip()))
    except UserError as error:
        return error


def _load(place: str, text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError("invalid-json", place, f"invalid JSON at column {error.colno}: {error.msg}") from None
    except (RecursionError, ValueError) as error:
        raise UserError("invalid-json", place, f"invalid JSON: {_reason(error)}") from None


def check_json(path: Path, first_line: int, text: str, column: int = 0) -> None:
    """Say where the JSON that begins in `first_line`, after `column` characters, is wrong; nothing where it is right."""
    try:
        json.JSONDecoder().raw_decode(text.lstrip())
    except json.JSONDecodeError as error:
        line = first_line + text[: len(text) - len(text.lstrip())].count("\n") + error.lineno - 1
        column = error.colno + (column if error.lineno == 1 else 0)
        problem = f"invalid JSON at column {column}: {error.msg}"
        raise UserError("invalid-json", f"{path} line {line}", problem) from None
    except (RecursionError, ValueError) as error:
        problem = f"invalid JSON: {_reason(error)}"
        raise UserError("invalid-json", f"{path} line {first_line}", problem) from None


def first_line(error: Exception) -> str:
    """The first line of a library's message."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _reason(error: Exception) -> str:
    """What Python cannot read: too many levels, or a number of too many digits."""
    return "nested too deeply" if isinstance(error, RecursionError) else str(error).split(";")[0]
