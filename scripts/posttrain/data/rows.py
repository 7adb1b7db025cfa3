"""Rows of a dataset: normalised from any format, written to Parquet and read again, and the hashes that tell them apart.

How rows may be written is in `formats`, what they are once they are normalised in `dataset_types`.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import takewhile
from pathlib import Path
from typing import Any

from posttrain.data import dataset_types, media_parts, messages
from posttrain.data.dataset_types import DATASET_TYPES, MEDIA
from posttrain.data.formats import COMPLETION_OF, FORMATS
from posttrain.data.media import Store
from posttrain.data.messages import Row, kind, short
from posttrain.runtime.errors import UserError, nearest

HERE = Store()  # files are only checked
MAX_CHARACTERS = 1_000_000


def read(path: Path) -> list[Row]:
    """The normalised rows of a Parquet file, without the fields that a row does not have."""
    import pyarrow.parquet as pq

    return without_nulls(pq.read_table(path).to_pylist())


def batches(path: Path, size: int, columns: Iterable[str] | None = None) -> Iterator[Any]:
    """A Parquet file's rows as Arrow record batches of up to `size` rows, of those of the columns that it has.

    pyarrow's defaults would hold the whole file in memory by the end.
    """
    import pyarrow.parquet as pq

    with pq.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20) as file:
        present = None if columns is None else [name for name in columns if name in file.schema_arrow.names]
        yield from file.iter_batches(size, columns=present, use_threads=False)


def media_names(files: Iterable[Path]) -> set[str]:
    """The names of the files that the normalised rows of Parquet files are about."""
    return {
        name
        for file in files
        for batch in batches(file, 2000, MEDIA)
        for column in batch.columns
        for name in column.flatten().to_pylist()
    }


def without_nulls(rows: list[Row]) -> list[Row]:
    """Rows as Parquet gives them, without the null fields of turns and rows: a chat template takes those for set."""
    for row in rows:
        for key in [key for key, value in row.items() if value is None]:
            del row[key]
        for turns in row.values():
            if isinstance(turns, list) and turns and isinstance(turns[0], dict):
                turns[:] = [{key: value for key, value in turn.items() if value is not None} for turn in turns]
    return rows


def left_out(row: Row, kind: str, reason: str) -> dict[str, str]:
    """The line of dropped.jsonl for a normalised row that is left out, with what the row says as JSON."""
    content = {key: value for key, value in row.items() if key not in ("id", "place")}
    return {"place": row["place"], "kind": kind, "reason": reason, "row": json.dumps(content, ensure_ascii=False)}


def put_back(line: dict[str, str]) -> Row:
    """The normalised row of a line of dropped.jsonl, see `left_out`; of a line that is no fault."""
    content = json.loads(line["row"])
    return {"id": _digest(content), "place": line["place"], **content}


def made(place: str, content: Row) -> Row:
    """A normalised row of this content, with its id."""
    return {"id": _digest(content), "place": place, **content}


def schema(dataset_type: str) -> Any:
    """The Parquet schema of a dataset type's normalised rows."""
    row = DATASET_TYPES[dataset_type]
    tools = {"tools": "string"} if row.tools else {}
    return arrow_schema({"id": "string", "place": "string"} | row.columns | tools)


def arrow_schema(columns: dict[str, str]) -> Any:
    """The Parquet schema of columns, name to kind, see `DatasetType.columns`."""
    import pyarrow as pa

    texts = ("role", "content", "reasoning_content", "tool_calls", "tool_call_id", "name")
    kinds = {
        "string": pa.string(),
        "strings": pa.list_(pa.string()),
        "boolean": pa.bool_(),
        "number": pa.float64(),
        "label": pa.string(),
        "length": pa.int32(),
        "ids": pa.list_(pa.int32()),
        "spans": pa.list_(pa.list_(pa.int32())),
        "turns": pa.list_(pa.struct([*((name, pa.string()) for name in texts), ("train", pa.bool_())])),
    }
    return pa.schema([(name, kinds[kind]) for name, kind in columns.items()])


# ---- normalise


def normalise(row: Any, format: str, columns: dict[str, str], place: str, store: Store = HERE) -> Row:
    """One row in its normal form.

    Args:
        format: one of FORMATS except for trees, of which `message_trees` makes rows first.
        columns: our field to the file's field.
        place: file and line.
        store: where the files that the row is about come from, and where they are brought.

    Raises:
        UserError: a field is missing, null, empty or of the wrong type, or a file is missing or broken.
    """
    if not isinstance(row, dict):
        raise UserError("invalid-row", place, f"a row is an object with named fields, and this is {kind(row)}")
    if None in row:
        raise UserError("invalid-row", place, "more fields than the header has", "quote the commas")
    values = {}
    for ours, name, needed in fields(format, tuple(columns.items()), given(row)):
        value = row.get(name)
        if needed and value is None:
            raise UserError("missing-field", place, *_missing(row, format, columns, ours))
        if needed or value not in ("", []):
            values[ours] = value
    asked = values.get("prompt")
    if isinstance(asked, dict) and "messages" in asked:  # OpenAI's files of preferences
        values |= {key: asked[ours] for key, ours in (("prompt", "messages"), ("tools", "tools")) if asked.get(ours)}
    media, inline = DATASET_TYPES[FORMATS[format].dataset_type].media, []
    for column in media:
        values, inline = media_parts.taken_out(values, column, place)
    content = FORMATS[format].content(values, place)
    if "tools" in values:
        content["tools"] = json.dumps(messages.objects(values["tools"], "field 'tools'", place), ensure_ascii=False)
    _check_size(content, place)
    for column in media:
        content[column] = media_parts.files(
            content, values.get(column, values.get(column[:-1])), inline, column, store, place
        )
    return {"id": _digest(content), "place": place, **content}


def given(row: Row) -> frozenset[str]:
    """The names of a row's fields that have a value: a table's schema gives every row all of them."""
    return frozenset([name for name, value in row.items() if value is not None])


@lru_cache(maxsize=256)
def fields(
    format: str, columns: tuple[tuple[str, str], ...], names: frozenset[str]
) -> tuple[tuple[str, str, bool], ...]:
    """The fields that are read from a row in which these have values: ours, the file's, and whether it must be there.

    Of several alternatives the first that the row has is read.
    """
    renamed = dict(columns)

    def found(field: str) -> tuple[str, str] | None:
        both = ((ours, renamed.get(ours, ours)) for ours in field.split("|"))
        return next(((ours, name) for ours, name in both if name in names), None)

    must, may = FORMATS[format].required, FORMATS[format].optional
    needed = []
    for field in must:
        ours, name = found(field) or (field.split("|")[0], renamed.get(field.split("|")[0], field.split("|")[0]))
        needed.append((ours, name, True))
    if format == "unpaired_preference" and (answer := COMPLETION_OF.get(needed[0][0])):
        needed.append((answer, renamed.get(answer, answer), True))
        may = tuple(field for field in may if field != "completion|output")
    elif format == "unpaired_preference":  # the answer is the last message
        may = ("system", "tools")
    read = [*needed, *((*pair, False) for field in may if (pair := found(field)))]
    instructed = any(ours == "instruction" for ours, *_ in read)
    return tuple(one for one in read if instructed or one[0] not in ("input", "history"))


def _missing(row: Row, format: str, columns: dict[str, str], ours: str) -> tuple[str, str]:
    """What is wrong with a required field that has no value, and what to do."""
    alternatives = next((field for field in FORMATS[format].required if ours in field.split("|")), ours).split("|")
    names = [columns.get(field, field) for field in alternatives]
    null = next((name for name in names if name in row), None)
    if null is not None:
        return f"the field '{null}' is null", "give it a value or take the row out"
    name = next((columns[field] for field in alternatives if field in columns), columns.get(ours, ours))
    return f"there is no field '{name}' for the {ours}", nearest(name, map(short, row))


def _check_size(content: Row, place: str) -> None:
    size = len(dataset_types.of(content).text(content))
    if size > MAX_CHARACTERS:
        raise UserError(
            "invalid-row",
            place,
            f"the row has {size:,} characters, and no model reads more than {MAX_CHARACTERS:,} at once",
            "split it",
        )


# ---- identity


_canonical = json.JSONEncoder(sort_keys=True).encode


def _digest(content: Any) -> str:
    return hashlib.sha256(_canonical(content).encode()).hexdigest()


def with_system(row: Row, prompt: str) -> Row:
    """A row of turns that opens with a system prompt: its own, or else this one.

    Raises:
        UserError: the row is a text.
    """
    turns = dataset_types.of(row).turns
    if not turns:
        raise UserError(
            "invalid-row", row["place"], "a text has no turns, and so no system prompt", "take `system:` out"
        )
    key = turns[0]
    if row[key] and row[key][0]["role"] == "system":
        return row
    content = {name: value for name, value in row.items() if name not in ("id", "place")}
    content[key] = [{"role": "system", "content": prompt}, *row[key]]
    return {"id": _digest(content), "place": row["place"], **content}


def group(row: Row) -> str:
    """A hash that rows share which begin with the same prompt, or are about the same files; a split keeps them on one side."""
    kind = dataset_types.of(row)
    if files := [row[name] for name in kind.media if row.get(name)]:
        return _digest(files)  # of many pictures the same is asked
    turns = row[kind.turns[0]] if kind.turns else []
    opening = list(takewhile(lambda turn: turn["role"] != "assistant", turns))
    return _digest(opening or row.get("text") or turns)
