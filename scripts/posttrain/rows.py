"""Read a dataset's rows in any of the known shapes and normalise them.

Normalised rows have `id` (hash of the content) and, by shape: text: `text`; prompt_completion and messages:
`messages`, a list of {role, content} that ends with the assistant; preference: `prompt`, `chosen` and `rejected`, each
such a list; unpaired_preference: `prompt`, `completion` and the boolean `label`.
"""

import csv
import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from posttrain.errors import UserError, nearest

COLUMNS = {
    "text": ("text",),
    "prompt_completion": ("prompt", "completion"),
    "messages": ("messages",),
    "preference": ("prompt", "chosen", "rejected"),
    "unpaired_preference": ("prompt", "completion", "label"),
}
ROLES = ("system", "user", "assistant", "tool")

Row = dict[str, Any]


def read_file(path: Path, columns: dict[str, str], shape: str | None = None) -> tuple[str, list[Row]]:
    """Read and normalise a file.

    Args:
        columns: our column to the file's column.
        shape: one of COLUMNS; recognised from the first row when None.

    Returns:
        The shape and the rows, in the file's order.

    Raises:
        UserError: the file or one of its rows is not what it should be; the sentence names file and line.
    """
    rows = []
    names: tuple[str, ...] = ()
    for line, row in _read(path):
        place = f"{path} line {line}"
        if not isinstance(row, dict):
            raise UserError(f"{place}: a row is an object with named fields, and this is {_kind(row)}")
        if not names:
            shape = shape or _recognise(row, columns, path)
            names = COLUMNS[shape]
        rows.append(normalise(row, shape, columns, place))
    if not rows:
        raise UserError(f"{path}: the file has no rows; write at least one")
    return shape, rows


def _recognise(row: Row, columns: dict[str, str], path: Path) -> str:
    present = {
        ours
        for ours in ("text", "prompt", "completion", "label", "messages", "chosen", "rejected")
        if columns.get(ours, ours) in row
    }
    for shape in ("preference", "messages", "unpaired_preference", "prompt_completion", "text"):
        if set(COLUMNS[shape]) <= present:
            return shape
    raise UserError(
        f"{path}: its columns {', '.join(map(str, row))} fit no known shape; "
        f"say which is which with `columns:`, such as {{prompt: {next(iter(row), 'question')}}}"
    )


def normalise(row: Row, shape: str, columns: dict[str, str], place: str) -> Row:
    """One row in its normal form.

    Raises:
        UserError: a field is missing, null, empty or of the wrong type.
    """
    values = {ours: _field(row, columns.get(ours, ours), ours, place) for ours in COLUMNS[shape]}
    if shape == "text":
        content = {"text": _text(values["text"], "text", place)}
    elif shape == "messages":
        content = {"messages": _messages(values["messages"], "messages", place)}
    elif shape == "prompt_completion":
        prompt = _turns(values["prompt"], "user", "prompt", place)
        content = {"messages": prompt + _turns(values["completion"], "assistant", "completion", place)}
    elif shape == "unpaired_preference":
        content = {
            "prompt": _turns(values["prompt"], "user", "prompt", place),
            "completion": _turns(values["completion"], "assistant", "completion", place),
            "label": _label(values["label"], place),
        }
    else:
        content = {
            "prompt": _turns(values["prompt"], "user", "prompt", place),
            "chosen": _turns(values["chosen"], "assistant", "chosen", place),
            "rejected": _turns(values["rejected"], "assistant", "rejected", place),
        }
        if content["chosen"] == content["rejected"]:
            raise UserError(f"{place}: chosen and rejected are the same; a preference needs two different answers")
    return {"id": _digest(content), **content}


def group(row: Row) -> str:
    """What keeps rows together when a dataset is split: rows that share their prompt stay on one side."""
    prompt = row.get("prompt") or [turn for turn in row.get("messages", []) if turn["role"] != "assistant"]
    return _digest(prompt or row.get("text") or row["messages"])


def _field(row: Row, name: str, ours: str, place: str) -> Any:
    if name not in row:
        fields = [str(key) for key in row if key is not None]
        raise UserError(f"{place}: there is no field '{name}' for the {ours}; {nearest(name, fields)}")
    if row[name] is None:
        raise UserError(f"{place}: the field '{name}' is null; give it a value or take the row out")
    return row[name]


def _turns(value: Any, role: str, name: str, place: str) -> list[dict[str, str]]:
    if isinstance(value, list):
        return _messages(value, name, place, last=role)
    return [{"role": role, "content": _text(value, name, place)}]


def _messages(value: Any, name: str, place: str, last: str = "assistant") -> list[dict[str, str]]:
    if not isinstance(value, list) or not value:
        raise UserError(f"{place}: '{name}' is a list of messages, and this is {_kind(value)}")
    turns = []
    for number, turn in enumerate(value, 1):
        if not isinstance(turn, dict) or not {"role", "content"} <= turn.keys():
            raise UserError(f"{place}: message {number} of '{name}' needs the fields role and content")
        if turn["role"] not in ROLES:
            raise UserError(
                f"{place}: message {number} of '{name}' has the role {turn['role']!r}; {nearest(str(turn['role']), ROLES)}"
            )
        turns.append({"role": turn["role"], "content": _text(turn["content"], f"content of message {number}", place)})
    if turns[-1]["role"] != last:
        raise UserError(f"{place}: '{name}' ends with the {turns[-1]['role']}; the last message must be the {last}'s")
    return turns


def _text(value: Any, name: str, place: str) -> str:
    if not isinstance(value, str):
        raise UserError(f"{place}: the {name} is {_kind(value)}; write a string")
    if not value.strip():
        raise UserError(f"{place}: the {name} is empty; give it text or take the row out")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise UserError(f"{place}: the {name} holds half of a surrogate pair; write the whole character") from None
    return value


def _label(value: Any, place: str) -> bool:
    words = {"true": True, "false": False, "1": True, "0": False}  # as CSV has them
    value = words.get(value.lower(), value) if isinstance(value, str) else bool(value) if value in (0, 1) else value
    if not isinstance(value, bool):
        raise UserError(
            f"{place}: the label is {_kind(value)}; write true for a wanted answer, false for an unwanted one"
        )
    return value


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", int: "a number", float: "a number"}
    if value is None or value == []:
        return "null" if value is None else "an empty list"
    return names.get(type(value), f"of the type {type(value).__name__}")


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


# ---- file formats: each reader yields (line number, row)


def _read(path: Path) -> Iterator[tuple[int, Any]]:
    readers = {".jsonl": _jsonl, ".json": _json, ".csv": _csv, ".parquet": _parquet}
    if path.suffix not in readers:
        raise UserError(f"{path}: unknown kind of file '{path.suffix}'; {nearest(path.suffix, readers)}")
    if path.stat().st_size == 0:
        raise UserError(f"{path}: the file is empty; write at least one row")
    yield from readers[path.suffix](path)


def _decode(path: Path, line: int, raw: bytes) -> str:
    try:
        return raw.decode("utf-8-sig" if line == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} line {line}: not UTF-8 at byte {error.start + 1}; save the file as UTF-8") from None


def _parse(path: Path, first_line: int, text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        line = first_line + error.lineno - 1
        raise UserError(f"{path} line {line}: invalid JSON at column {error.colno}: {error.msg}") from None
    except RecursionError:
        raise UserError(f"{path} line {first_line}: invalid JSON: nested too deeply") from None
    except ValueError as error:  # a number of more digits than Python reads
        raise UserError(f"{path} line {first_line}: invalid JSON: {str(error).split(';')[0]}") from None


def _jsonl(path: Path) -> Iterator[tuple[int, Any]]:
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            if raw.strip():
                yield number, _parse(path, number, _decode(path, number, raw.rstrip()))


def _json(path: Path) -> Iterator[tuple[int, Any]]:
    raw = path.read_bytes()
    for number, line in enumerate(raw.splitlines(), 1):
        _decode(path, number, line)
    rows = _parse(path, 1, raw.decode("utf-8-sig"))
    if not isinstance(rows, list):
        raise UserError(f"{path}: a .json file is one list of rows, and this is {_kind(rows)}; or name it .jsonl")
    decoder = json.JSONDecoder()
    text = raw.decode("utf-8-sig")
    position = text.index("[") + 1
    for row in rows:  # walk the text beside the rows, so that an error can name the row's line
        while text[position] in " \t\r\n,":
            position += 1
        yield text.count("\n", 0, position) + 1, row
        _, position = decoder.raw_decode(text, position)


def _csv(path: Path) -> Iterator[tuple[int, Any]]:
    csv.field_size_limit(sys.maxsize)
    with path.open("rb") as file:
        lines = (_decode(path, number, raw) for number, raw in enumerate(file, 1))
        reader = csv.DictReader(lines, strict=True)
        try:
            for row in reader:
                if None in row:
                    raise UserError(f"{path} line {reader.line_num}: more fields than the header has; quote the commas")
                yield reader.line_num, row
        except csv.Error as error:
            raise UserError(f"{path} line {reader.line_num}: invalid CSV: {error}") from None


def _parquet(path: Path) -> Iterator[tuple[int, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        rows = pq.read_table(path).to_pylist()
    except UnicodeDecodeError:
        raise UserError(f"{path}: a string in it is not UTF-8; write it again as UTF-8") from None
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path}: not a Parquet file; check that it is whole ({reason})") from None
    yield from enumerate(rows, 1)
