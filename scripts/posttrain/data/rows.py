"""Normalise a dataset's rows, whatever format they have.

A *format* is how rows are written (FORMATS); a *shape* is what they are (SHAPE_OF). A normalised row has `id` (hash of the
content), `place` (file and line), and by shape: text: `text`, and `trained`, the first and last character of each part that is
trained, where that is not all; messages: `messages`, turns that end with the assistant; preference: `prompt`, `chosen` and
`rejected`, each a list of turns; unpaired_preference: `prompt`, `completion` and the boolean `label`; prompts: `prompt`;
image_messages: `messages` and `images`, paths. For turns see `messages`; a row may have `tools`, the functions that may be
called, as JSON.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import takewhile
from pathlib import Path
from typing import Any

from posttrain.data import messages
from posttrain.data.files import is_file
from posttrain.data.messages import ROLES, Row, Turns, kind, short
from posttrain.metrics import word_hashes
from posttrain.runtime.errors import UserError, nearest

__all__ = ["FIELDS", "FORMATS", "ROLES", "SHAPE_OF", "Row", "Turns", "group", "normalise", "read", "schema"]

# Fields that a row of the format must have (one of several, where they stand beside each other), in the order in which
# formats are tried, and those it may have.
_PROMPT = ("input", "history", "system", "tools")
FORMATS = {
    "oasst": (("message_id", "parent_id", "text", "role"), ("rank", "deleted")),
    "oasst_pairs": (("message_id", "parent_id", "text", "role"), ("rank", "deleted")),
    "llava": (("images|image", "messages|conversations"), ()),
    "hh_rlhf": (("chosen", "rejected"), ()),
    "preference": (("chosen", "rejected"), ("prompt|conversations|instruction|messages", *_PROMPT)),
    "unpaired_preference": (("messages|conversations|prompt|instruction", "label"), ("completion|output", *_PROMPT)),
    "messages": (("messages",), ("system", "tools")),
    "sharegpt": (("conversations",), ("system", "tools")),
    "alpaca": (("instruction", "output"), _PROMPT),
    "prompt_completion": (("prompt", "completion"), ("system", "tools")),
    "segments": (("segments",), ()),
    "ultrachat": (("data",), ()),
    "text": (("text",), ()),
    "prompts": (("prompt|messages|conversations|instruction",), _PROMPT),
}
FIELDS = tuple(dict.fromkeys("|".join("|".join((*must, *may)) for must, may in FORMATS.values()).split("|")))
# The field of the answer to what is asked in these, where a label says whether it is wanted.
ANSWER_OF = {"prompt": "completion", "instruction": "output"}
TREES = {"oasst": "messages", "oasst_pairs": "preference"}
SHAPE_OF = {
    **dict.fromkeys(FORMATS, "messages"),
    "llava": "image_messages",
    **dict.fromkeys(("preference", "hh_rlhf", "oasst_pairs"), "preference"),
    "unpaired_preference": "unpaired_preference",
    **dict.fromkeys(("text", "segments"), "text"),
    "prompts": "prompts",
}
MAX_CHARACTERS = 1_000_000
IMAGES = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")  # for EPS, pillow would start Ghostscript


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


def schema(shape: str) -> Any:
    """The Parquet schema of a shape's normalised rows."""
    import pyarrow as pa

    texts = ("role", "content", "reasoning_content", "tool_calls", "tool_call_id", "name")
    turns = pa.list_(pa.struct([*((name, pa.string()) for name in texts), ("train", pa.bool_())]))
    columns = {
        "text": [("text", pa.string()), ("trained", pa.list_(pa.list_(pa.int32())))],
        "messages": [("messages", turns)],
        "image_messages": [("messages", turns), ("images", pa.list_(pa.string()))],
        "preference": [("prompt", turns), ("chosen", turns), ("rejected", turns)],
        "unpaired_preference": [("prompt", turns), ("completion", turns), ("label", pa.bool_())],
        "prompts": [("prompt", turns)],
    }[shape]
    tools = [] if shape == "text" else [("tools", pa.string())]
    return pa.schema([("id", pa.string()), ("place", pa.string()), *columns, *tools])


# ---- normalise


def normalise(row: Any, format: str, columns: dict[str, str], place: str, images: Path = Path()) -> Row:
    """One row in its normal form.

    Args:
        format: one of FORMATS, but no tree: `trees` makes rows of those first.
        columns: our field to the file's field.
        place: file and line.
        images: the folder that the paths of images belong to.

    Raises:
        UserError: a field is missing, null, empty or of the wrong type.
    """
    if not isinstance(row, dict):
        raise UserError(f"{place}: a row is an object with named fields, and this is {kind(row)}")
    if None in row:
        raise UserError(f"{place}: more fields than the header has; quote the commas")
    values = {}
    for ours, name, needed in fields(format, tuple(columns.items()), given(row)):
        value = row.get(name)
        if needed and value is None:
            raise UserError(f"{place}: {_missing(row, format, columns, ours)}")
        if needed or value not in ("", []):
            values[ours] = value
    asked = values.get("prompt")
    if isinstance(asked, dict) and "messages" in asked:  # OpenAI's files of preferences
        values |= {key: asked[ours] for key, ours in (("prompt", "messages"), ("tools", "tools")) if asked.get(ours)}
    content = _CONTENT[format](values, place)
    if "tools" in values:
        content["tools"] = json.dumps(messages.objects(values["tools"], "field 'tools'", place), ensure_ascii=False)
    if "images" in content:
        _check_images(content, images, place)
    _check_size(content, place)
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

    must, may = FORMATS[format]
    needed = []
    for field in must:
        ours, name = found(field) or (field.split("|")[0], renamed.get(field.split("|")[0], field.split("|")[0]))
        needed.append((ours, name, True))
    if format == "unpaired_preference" and (answer := ANSWER_OF.get(needed[0][0])):
        needed.append((answer, renamed.get(answer, answer), True))
        may = tuple(field for field in may if field != "completion|output")
    elif format == "unpaired_preference":  # the answer is the last message
        may = ("system", "tools")
    read = [*needed, *((*pair, False) for field in may if (pair := found(field)))]
    instructed = any(ours == "instruction" for ours, *_ in read)
    return tuple(one for one in read if instructed or one[0] not in ("input", "history"))


def _missing(row: Row, format: str, columns: dict[str, str], ours: str) -> str:
    """What is wrong with a field that must be there, and is not."""
    alternatives = next((field for field in FORMATS[format][0] if ours in field.split("|")), ours).split("|")
    names = [columns.get(field, field) for field in alternatives]
    null = next((name for name in names if name in row), None)
    if null is not None:
        return f"the field '{null}' is null; give it a value or take the row out"
    name = next((columns[field] for field in alternatives if field in columns), columns.get(ours, ours))
    return f"there is no field '{name}' for the {ours}; {nearest(name, map(short, row))}"


def _text_row(values: Row, place: str) -> Row:
    return {"text": messages.text(values["text"], "text", place)}


def _segments(values: Row, place: str) -> Row:
    """Axolotl's text in segments, each trained or not."""
    segments = messages.from_json(values["segments"])
    if not isinstance(segments, list) or not segments:
        raise UserError(f"{place}: the segments are a list of {{label, text}}, and this is {kind(segments)}")
    text, trained = "", []
    for number, segment in enumerate(segments, 1):
        label = messages.boolean(segment.get("label")) if isinstance(segment, dict) else None
        if not isinstance(label, bool):
            raise UserError(f"{place}: segment {number} needs a text and a label, true where it is trained, or false")
        messages.check_text(segment.get("text"), f"text of segment {number}", place)
        end = len(text) + len(segment["text"])
        if label and segment["text"]:
            start = trained.pop()[0] if trained and trained[-1][1] == len(text) else len(text)
            trained.append([start, end])
        text += segment["text"]
    if not trained:
        raise UserError(f"{place}: no segment is trained; give one `label: true`, or take the row out")
    return {"text": messages.text(text, "text of all segments", place)} | (
        {} if trained == [[0, len(text)]] else {"trained": trained}
    )


def _messages_row(values: Row, place: str) -> Row:
    return {"messages": _whole(_conversation(values, "messages", place), place)}


def _sharegpt(values: Row, place: str) -> Row:
    return {"messages": _whole(_conversation(values, "conversations", place), place)}


def _prompt_completion(values: Row, place: str) -> Row:
    answer = messages.answer(values["completion"], "completion", place)
    return {"messages": _whole([*_prompt(values, place), *answer], place)}


def _alpaca(values: Row, place: str) -> Row:
    answer = messages.answer(values["output"], "output", place)
    return {"messages": _whole([*_prompt(values, place), *answer], place)}


def _ultrachat(values: Row, place: str) -> Row:
    texts = values["data"]
    if not isinstance(texts, list) or len(texts) < 2:
        raise UserError(
            f"{place}: the data is a list of what user and assistant say in turn, and this is {kind(texts)}"
        )
    roles = ("user", "assistant")
    said = enumerate(texts)
    turns = [messages.turn(roles[i % 2], text, f"text {i + 1} of the data", place) for i, text in said]
    return {"messages": _whole(turns, place)}


def _preference(values: Row, place: str) -> Row:
    chosen, rejected = (messages.answers(values[side], side, place) for side in ("chosen", "rejected"))
    shared = _shared(chosen, rejected) if len(chosen) > 1 and len(rejected) > 1 else []
    if shared and chosen[0]["role"] != "assistant":  # the answers repeat their prompt
        prompt = _with_system(values, shared, place)
    elif any(name in values for name in _ASKING):
        shared, prompt = [], _prompt(values, place)
    else:
        prompt = _with_system(values, shared, place)
    return _pair(prompt, chosen[len(shared) :], rejected[len(shared) :], place)


def _hh_rlhf(values: Row, place: str) -> Row:
    chosen, rejected = (messages.transcript(values[side], side, place) for side in ("chosen", "rejected"))
    shared = _shared(chosen[:-1], rejected[:-1])
    return _pair(shared, chosen[len(shared) :], rejected[len(shared) :], place)


def _shared(chosen: Turns, rejected: Turns) -> Turns:
    """The turns that both begin with, up to the last that is not the assistant's: both answers may begin alike."""
    same = takewhile(lambda pair: pair[0] == pair[1], zip(chosen, rejected, strict=False))
    turns = [turn for turn, _ in same]
    while turns and turns[-1]["role"] == "assistant":
        turns.pop()
    return turns


def _unpaired(values: Row, place: str) -> Row:
    name = next((name for name in ("messages", "conversations") if name in values), None)
    if name:
        turns = _conversation(values, name, place)
        messages.ends_with(turns, "assistant", name, place)
        prompt, completion = turns[:-1], turns[-1:]
        if not prompt:
            raise UserError(f"{place}: '{name}' has an answer and no prompt; write what it answers before it")
        messages.ends_with(prompt, "user", f"{name} before the answer", place)
    else:
        name = "completion" if "completion" in values else "output"
        prompt, completion = _prompt(values, place), messages.answer(values[name], name, place)
    messages.check_order([*prompt, *completion], place)
    answer = messages.whole(completion, name, place)
    return {"prompt": messages.asked(prompt), "completion": answer, "label": _label(values["label"], place)}


def _prompts(values: Row, place: str) -> Row:
    return {"prompt": messages.asked(_prompt(values, place))}


def _llava(values: Row, place: str) -> Row:
    images = values.get("images", values.get("image"))
    images = [images] if isinstance(images, str) else images
    if not isinstance(images, list) or not all(isinstance(image, str) for image in images):
        raise UserError(f"{place}: the images are a list of paths, and this is {kind(images)}")
    for image in images:
        messages.check_text(image, "path of an image", place)
    name = "messages" if "messages" in values else "conversations"
    return {"messages": _whole(messages.turns(values[name], name, place), place), "images": list(images)}


_CONTENT = {
    "llava": _llava,
    "hh_rlhf": _hh_rlhf,
    "preference": _preference,
    "messages": _messages_row,
    "sharegpt": _sharegpt,
    "alpaca": _alpaca,
    "unpaired_preference": _unpaired,
    "prompt_completion": _prompt_completion,
    "segments": _segments,
    "ultrachat": _ultrachat,
    "text": _text_row,
    "prompts": _prompts,
}


# ---- parts of rows


def _pair(prompt: Turns, chosen: Turns, rejected: Turns, place: str) -> Row:
    if not prompt:
        raise UserError(f"{place}: chosen and rejected share no prompt; write one, as the field 'prompt'")
    if prompt[-1]["role"] not in ("user", "tool"):
        raise UserError(f"{place}: the prompt ends with the {prompt[-1]['role']}; the last message must be the user's")
    if chosen == rejected:
        raise UserError(f"{place}: chosen and rejected are the same; a preference needs two different answers")
    for side, answer in (("chosen", chosen), ("rejected", rejected)):
        if not answer:
            raise UserError(f"{place}: the {side} is only the prompt; write the answer after it")
        messages.check_order([*prompt, *answer], place)
        messages.ends_with(answer, "assistant", side, place)
        messages.whole(answer, side, place)
    return {"prompt": messages.asked(prompt), "chosen": chosen, "rejected": rejected}


_ASKING = ("prompt", "conversations", "instruction", "messages")


def _prompt(values: Row, place: str) -> Turns:
    """What asks for the answer: text, turns, or an instruction with its input and what was said before."""
    name = next(name for name in _ASKING if name in values)
    turns = (
        _instruction(values, place) if name == "instruction" else messages.said_by("user", values[name], name, place)
    )
    turns = _with_system(values, turns, place)
    messages.ends_with(turns, "user", name, place)
    messages.check_order(turns, place)
    return turns


def _instruction(values: Row, place: str) -> Turns:
    history = messages.from_json(values.get("history", []))
    if not isinstance(history, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in history):
        raise UserError(f"{place}: the history is a list of [question, answer], and this is {kind(history)}")
    turns = []
    for pair in history:
        roles = zip(("user", "assistant"), pair, strict=True)
        turns += [messages.turn(role, said, "history", place) for role, said in roles]
    asked = [messages.text(values[key], key, place) for key in ("instruction", "input") if key in values]
    return [*turns, messages.turn("user", "\n".join(asked), "instruction", place)]


def _conversation(values: Row, name: str, place: str) -> Turns:
    return _with_system(values, messages.turns(values[name], name, place), place)


def _with_system(values: Row, turns: Turns, place: str) -> Turns:
    """The turns after the row's own system prompt, which may stand before them already."""
    if "system" not in values:
        return turns
    system = messages.turn("system", values["system"], "system", place)
    if turns and turns[0]["role"] == "system":
        if turns[0] != system:
            raise UserError(f"{place}: the field 'system' and the first message are two system prompts; take one out")
        return turns
    return [system, *turns]


def _whole(turns: Turns, place: str) -> Turns:
    """A conversation: it ends with the assistant, nobody speaks twice, and something of it is trained."""
    messages.ends_with(turns, "assistant", "messages", place)
    messages.check_order(turns, place)
    return messages.trained(turns, place)


def _label(value: Any, place: str) -> bool:
    label = messages.boolean(value)
    if not isinstance(label, bool):
        raise UserError(
            f"{place}: the label is {kind(value)}; write true for a wanted answer, false for an unwanted one"
        )
    return label


def _check_images(content: Row, folder: Path, place: str) -> None:
    """Every `<image>` in the text has its file, and every file is an image."""
    from PIL import Image

    marks = sum(turn["content"].count("<image>") for turn in content["messages"])
    if marks != len(content["images"]):
        raise UserError(
            f"{place}: the text has {marks} <image> and the row {len(content['images'])} images; write one for each"
        )
    for i, name in enumerate(content["images"]):
        file = folder / name
        try:
            if file.exists() and not is_file(file):  # opening a pipe would never end
                raise OSError
            with Image.open(file, formats=IMAGES) as image:
                if image.format == "PNG":
                    image.verify()  # it has checksums; of others, only a look at all of it tells that it is whole
                else:
                    image.draft("L", (1, 1))  # JPEG can be decoded at an eighth of its size
                    image.load()
        except FileNotFoundError:
            raise UserError(f"{place}: there is no image '{file}'; check the path, or set `image_folder:`") from None
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
            raise UserError(f"{place}: '{file}' is no image that can be read; replace it") from None
        content["images"][i] = str(file)


def _check_size(content: Row, place: str) -> None:
    size = len(word_hashes.text(content))
    if size > MAX_CHARACTERS:
        raise UserError(
            f"{place}: the row has {size:,} characters, and no model reads more than {MAX_CHARACTERS:,} at once; split it"
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
    if "text" in row:
        raise UserError(f"{row['place']}: a text has no turns, and so no system prompt; take `system:` out")
    key = "prompt" if "prompt" in row else "messages"
    if row[key] and row[key][0]["role"] == "system":
        return row
    content = {name: value for name, value in row.items() if name not in ("id", "place")}
    content[key] = [{"role": "system", "content": prompt}, *row[key]]
    return {"id": _digest(content), "place": row["place"], **content}


def group(row: Row) -> str:
    """What keeps rows together when a dataset is split: rows that share their first prompt stay on one side."""
    turns = row.get("prompt") or row.get("messages") or []
    opening = []
    for turn in turns:
        if turn["role"] == "assistant":
            break
        opening.append(turn)
    return _digest(opening or row.get("text") or turns)
