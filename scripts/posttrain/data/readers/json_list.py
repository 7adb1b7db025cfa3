"""JSON files: one list of rows, or an object with the list under one key, or, as often on the hub, a row a line.

A list is read as a stream by the standard library's scanner. `ijson` 3.6 with its C parser takes a third of the time (0.55 s for 39 MB,
against 1.7 s), but it tells neither the line of a row, which is the row's `place` in all results and messages, nor the column of a fault.
"""

import codecs
import json
import re
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

from posttrain.data.readers import jsonl, text
from posttrain.data.readers.blocks import Block, blocks
from posttrain.data.readers.text import check_json, chunks, open_file
from posttrain.runtime.errors import UserError

_KEY = r'\s*"(?:[^"\\]|\\.)*"\s*:\s*'
_PLAIN = r'(?:"(?:[^"\\]|\\.)*"|-?[0-9][0-9.eE+-]*|true|false|null|\{[^{}\[\]]*\}|\[[^{}\[\]]*\])\s*,'
_OBJECT = re.compile(rf"\s*\{{(?:{_KEY}{_PLAIN})*{_KEY}\[\s*(?=[{{\]])")
_NAME = re.compile(r'"((?:[^"\\]|\\.)*)"\s*:\s*\[\s*\Z')
MAX_HEAD = 100_000  # characters before the list


def read(path: Path) -> Iterator[Block]:
    """The blocks of a file."""
    yield from jsonl.read(path) if _has_lines(path) else blocks(path, _items(path))


def _has_lines(path: Path) -> bool:
    with open_file(path) as file:
        if not file.peek(4).removeprefix(codecs.BOM_UTF8).startswith(b"{"):
            return False
        first, second = file.readline(text.CHUNK_BYTES).strip(), file.readline(2)
        return first.endswith(b"}") and second.startswith(b"{")


def _items(path: Path) -> Iterator[tuple[int, Any]]:
    """Line and row, as JSON, of one long list: a row that is nested deeply can be parsed, but not sent to a process."""
    decoder = json.JSONDecoder()
    with open_file(path) as file:
        pieces = chunks(path, file)
        buffer = next(pieces, "")
        position = _begin(path, buffer)
        inside = buffer.lstrip().startswith("{")
        line, column = 1 + buffer.count("\n", 0, position), 0  # of `position`; of the buffer's begin
        while True:
            blank = _BLANK.match(buffer, position).end()
            line += buffer.count("\n", position, blank)
            position = blank
            if buffer.startswith("]", position):
                rest = chain([buffer[position + 1 :]], pieces)
                (_check_object_end if inside else _check_end)(path, line, rest)
                return
            try:
                end = decoder.raw_decode(buffer, position)[1]
            except (ValueError, RecursionError):
                more = "".join(islice(pieces, 1 + len(buffer) // text.CHUNK_BYTES))
                column, buffer, position = _column(column, buffer, position), buffer[position:], 0
                if not more or len(buffer) > 16 * text.CHUNK_BYTES:
                    if buffer:
                        check_json(path, line, buffer, column)
                    problem = "invalid JSON: the list does not end; is it cut?"
                    raise UserError("invalid-json", f"{path} line {line}", problem) from None
                buffer += more
                continue
            yield line, buffer[position:end].encode()
            line += buffer.count("\n", position, end)
            position = end
            if end >= text.CHUNK_BYTES:
                column, buffer, position = _column(column, buffer, end), buffer[end:], 0


_BLANK = re.compile(r"[\s,]*")


def _column(column: int, buffer: str, position: int) -> int:
    """How many characters of its line stand before a position of the buffer, which has `column` of them before it."""
    newline = buffer.rfind("\n", 0, position)
    return position - newline - 1 if newline >= 0 else column + position


# Fields of a row that hold a list of objects: an object with one of them is a row itself.
_FIELDS = frozenset({"messages", "conversations", "prompt", "completion", "chosen", "rejected", "segments", "tools"})


def _begin(path: Path, text: str) -> int:
    """Where the first row of a JSON file stands in its beginning."""
    start = text.lstrip()
    if not start:
        raise UserError("no-rows", str(path), "the file is empty", "write at least one row")
    found = first_row(text, _FIELDS)
    if found is None:
        if not start.startswith("{"):
            check_json(path, 1, text)
        kind = "an object" if start.startswith("{") else "a single value"
        problem = f"a .json file is one list of rows, or an object with the list under one key, and this is {kind}"
        hint = "write a list, or a row a line in a file that is named .jsonl"
        raise UserError("unreadable-file", str(path), problem, hint)
    return found


def _check_object_end(path: Path, line: int, rest: Iterable[str]) -> None:
    """Refuse an object that has more rows, or no end, behind its list of rows."""
    text = "".join(islice(rest, 4))
    others = other_lists(text)
    if others is None:
        problem = "invalid JSON: the object does not end after its list of rows; is it cut?"
        raise UserError("invalid-json", f"{path} line {line}", problem)
    if others:
        problem = f"rows stand under more than one key, such as '{others[0]}'"
        raise UserError("unreadable-file", str(path), problem, "write a file for each")


def _check_end(path: Path, line: int, rest: Iterable[str]) -> None:
    if any(piece.strip() for piece in rest):
        problem = "invalid JSON: there is more after the end of the list"
        raise UserError("invalid-json", f"{path} line {line}", problem, "write one list")


def first_row(text: str, ours: frozenset[str]) -> int | None:
    """Where the first row is looked for in the beginning of a file's text; None where there is no list of objects.

    Args:
        ours: keys that are fields of a row: a list under one of them is part of a row.
    """
    if text.lstrip()[:1] == "[":
        return text.index("[") + 1
    head = _OBJECT.match(text, 0, MAX_HEAD)
    if not head or _NAME.search(head[0])[1] in ours:
        return None
    return head.end()


def other_lists(rest: str) -> list[str] | None:
    """The keys of other lists of objects behind the list of rows, in what is left of the object; None where it is no JSON."""
    try:
        found = json.loads('{"rows": []' + rest)
    except (ValueError, RecursionError):
        return None
    return [
        key for key, value in found.items() if isinstance(value, list) and any(isinstance(item, dict) for item in value)
    ]
