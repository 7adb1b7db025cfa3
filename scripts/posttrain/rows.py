"""Normalise a dataset's rows, whatever format they have.

A *format* is how rows are written (FORMATS); a *shape* is what they are (SHAPE_OF). A normalised row has `id` (hash of the
content), `place` (file and line), and by shape: text: `text`; messages: `messages`, turns that end with the
assistant; preference: `prompt`, `chosen` and `rejected`, each a list of turns; unpaired_preference: `prompt`, `completion`
and the boolean `label`; image_messages: `messages` and `images`, paths. A turn has `role` and `content`; the assistant's may have
`tool_calls`, as JSON, and `reasoning_content`, what it thought; a row `tools`, the functions that may be called, as JSON.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from itertools import takewhile
from pathlib import Path
from typing import Any

from posttrain import words
from posttrain.errors import UserError, nearest
from posttrain.files import is_file

# Fields that a row of the format must have (one of several, where they stand beside each other), in the order in which
# formats are tried, and those it may have.
FORMATS = {
    "oasst": (("message_id", "parent_id", "text", "role"), ("rank", "deleted")),
    "oasst_pairs": (("message_id", "parent_id", "text", "role"), ("rank", "deleted")),
    "llava": (("images|image", "messages|conversations"), ()),
    "hh_rlhf": (("chosen", "rejected"), ()),
    "preference": (("chosen", "rejected"), ("prompt", "conversations", "system", "tools")),
    "messages": (("messages",), ("tools",)),
    "sharegpt": (("conversations",), ("system", "tools")),
    "alpaca": (("instruction", "output"), ("input", "history", "system")),
    "unpaired_preference": (("prompt", "completion", "label"), ("system", "tools")),
    "prompt_completion": (("prompt", "completion"), ("system", "tools")),
    "ultrachat": (("data",), ()),
    "text": (("text",), ()),
}
FIELDS = tuple(dict.fromkeys("|".join("|".join((*must, *may)) for must, may in FORMATS.values()).split("|")))
TREES = {"oasst": "messages", "oasst_pairs": "preference"}
SHAPE_OF = {
    **dict.fromkeys(FORMATS, "messages"),
    "llava": "image_messages",
    **dict.fromkeys(("preference", "hh_rlhf", "oasst_pairs"), "preference"),
    "unpaired_preference": "unpaired_preference",
    "text": "text",
}
ROLES = ("system", "user", "assistant", "tool")
# The words that other formats have for them.
ALIASES = {
    **dict.fromkeys(("human", "prompter"), "user"),
    **dict.fromkeys(("gpt", "chatgpt", "bing", "bard", "model", "function_call"), "assistant"),
    **dict.fromkeys(("observation", "function", "function_response"), "tool"),
    **{role: role for role in ROLES},
}
THOUGHTS = ("reasoning_content", "thinking", "reasoning")  # fields of a turn; transformers knows the same
MAX_CHARACTERS = 1_000_000
IMAGES = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")  # for EPS, pillow would start Ghostscript

Row = dict[str, Any]
Turns = list[dict[str, str]]


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

    turns = pa.list_(
        pa.struct(
            [
                (name, pa.string())
                for name in ("role", "content", "reasoning_content", "tool_calls", "tool_call_id", "name")
            ]
        )
    )
    columns = {
        "text": [("text", pa.string())],
        "messages": [("messages", turns)],
        "image_messages": [("messages", turns), ("images", pa.list_(pa.string()))],
        "preference": [("prompt", turns), ("chosen", turns), ("rejected", turns)],
        "unpaired_preference": [("prompt", turns), ("completion", turns), ("label", pa.bool_())],
    }[shape]
    tools = [] if shape == "text" else [("tools", pa.string())]
    return pa.schema([("id", pa.string()), ("place", pa.string()), *columns, *tools])


# ---- recognise


def recognise(row: Row, columns: dict[str, str]) -> tuple[str, str]:
    """The format that a row has, and the sentence that says why.

    Args:
        columns: our field to the file's field.

    Raises:
        UserError: it has none; the sentence has no place yet.
    """
    for format, (must, _) in FORMATS.items():
        names = [name for field in must if (name := _present(row, field, columns))]
        if len(names) == len(must) and _looks_like(format, row, columns):
            return format, f"its first row has the fields {', '.join(names)}{_LOOKS.get(format, '')}"
    names = [_short(name) for name in row if name is not None]
    more = f" and {len(names) - 12} more" if len(names) > 12 else ""
    raise UserError(
        f"its columns {', '.join(names[:12])}{more} fit no known format; "
        f"say which is which with `columns:`, such as {{prompt: {next(iter(names), 'question')}}}, or write `format:`"
    )


_LOOKS = {
    "hh_rlhf": ", two transcripts of Human and Assistant",
    "ultrachat": ", a list of what user and assistant say in turn",
}


def _present(row: Row, field: str, columns: dict[str, str]) -> str | None:
    """The name that the row has for a field, or for one of several."""
    return next((name for ours in field.split("|") if (name := columns.get(ours, ours)) in row), None)


def _looks_like(format: str, row: Row, columns: dict[str, str]) -> bool:
    """Whether the fields hold what only this format has in them, where their names do not tell."""
    values = {field: row.get(columns.get(field, field)) for field in FIELDS}
    chosen = values["chosen"]
    if format == "hh_rlhf":
        return isinstance(chosen, str) and _SPEAKER.match(chosen.lstrip()) is not None
    if format == "preference":
        explicit = _present(row, "prompt|conversations", columns)
        return explicit is not None or (isinstance(chosen, list) and len(chosen) > 1)
    if format == "ultrachat":
        return isinstance(values["data"], list) and all(isinstance(text, str) for text in values["data"])
    return format != "oasst_pairs"


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
        raise UserError(f"{place}: a row is an object with named fields, and this is {_kind(row)}")
    if None in row:
        raise UserError(f"{place}: more fields than the header has; quote the commas")
    must, may = FORMATS[format]
    values = dict(_field(row, field, columns, place) for field in must)
    values |= {ours: row[name] for ours in may if row.get(name := columns.get(ours, ours)) not in (None, "", [])}
    content = _CONTENT[format](values, place)
    if "tools" in values:
        content["tools"] = json.dumps(_objects(values["tools"], "field 'tools'", place), ensure_ascii=False)
    if "images" in content:
        _check_images(content, images, place)
    _check_size(content, place)
    return {"id": _digest(content), "place": place, **content}


def _text_row(values: Row, place: str) -> Row:
    return {"text": _text(values["text"], "text", place)}


def _messages_row(values: Row, place: str) -> Row:
    return {"messages": _whole([*_system(values, place), *_messages(values["messages"], "messages", place)], place)}


def _sharegpt(values: Row, place: str) -> Row:
    turns = _messages(values["conversations"], "conversations", place)
    return {"messages": _whole([*_system(values, place), *turns], place)}


def _prompt_completion(values: Row, place: str) -> Row:
    return {"messages": _whole([*_prompt(values, place), *_answer(values["completion"], "completion", place)], place)}


def _alpaca(values: Row, place: str) -> Row:
    turns = _system(values, place)
    history = values.get("history", [])
    if not isinstance(history, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in history):
        raise UserError(f"{place}: the history is a list of [question, answer], and this is {_kind(history)}")
    for question, answer in history:
        turns += [_turn("user", question, "history", place), _turn("assistant", answer, "history", place)]
    asked = [_text(values[key], key, place) for key in ("instruction", "input") if key in values]
    turns.append(_turn("user", "\n".join(asked), "instruction", place))
    return {"messages": _whole([*turns, *_answer(values["output"], "output", place)], place)}


def _ultrachat(values: Row, place: str) -> Row:
    texts = values["data"]
    if not isinstance(texts, list) or len(texts) < 2:
        raise UserError(
            f"{place}: the data is a list of what user and assistant say in turn, and this is {_kind(texts)}"
        )
    roles = ("user", "assistant")
    turns = [_turn(roles[i % 2], text, f"text {i + 1} of the data", place) for i, text in enumerate(texts)]
    return {"messages": _whole(turns, place)}


def _preference(values: Row, place: str) -> Row:
    chosen, rejected = (_answers(values[side], side, place) for side in ("chosen", "rejected"))
    shared = _shared(chosen, rejected) if len(chosen) > 1 and len(rejected) > 1 else []
    if "prompt" in values or "conversations" in values:
        prompt = _prompt(values, place)
        if shared and chosen[0]["role"] != "assistant":  # the answers repeat their prompt
            prompt = [*_system(values, place), *shared]
        else:
            shared = []
    else:
        prompt = [*_system(values, place), *shared]
    return _pair(prompt, chosen[len(shared) :], rejected[len(shared) :], place)


def _hh_rlhf(values: Row, place: str) -> Row:
    chosen, rejected = (_transcript(values[side], side, place) for side in ("chosen", "rejected"))
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
    prompt, completion = _prompt(values, place), _answer(values["completion"], "completion", place)
    _check_order([*prompt, *completion], place)
    return {"prompt": prompt, "completion": completion, "label": _label(values["label"], place)}


def _llava(values: Row, place: str) -> Row:
    images = values.get("images", values.get("image"))
    images = [images] if isinstance(images, str) else images
    if not isinstance(images, list) or not all(isinstance(image, str) for image in images):
        raise UserError(f"{place}: the images are a list of paths, and this is {_kind(images)}")
    for image in images:
        _check_text(image, "path of an image", place)
    name = "messages" if "messages" in values else "conversations"
    return {"messages": _whole(_messages(values[name], name, place), place), "images": list(images)}


_CONTENT = {
    "llava": _llava,
    "hh_rlhf": _hh_rlhf,
    "preference": _preference,
    "messages": _messages_row,
    "sharegpt": _sharegpt,
    "alpaca": _alpaca,
    "unpaired_preference": _unpaired,
    "prompt_completion": _prompt_completion,
    "ultrachat": _ultrachat,
    "text": _text_row,
}


# ---- turns


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
        _check_order([*prompt, *answer], place)
        _ends_with(answer, "assistant", side, place)
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


def _prompt(values: Row, place: str) -> Turns:
    name = "prompt" if "prompt" in values else "conversations"
    value = values[name]
    turns = _messages(value, name, place) if isinstance(value, list) else [_turn("user", value, name, place)]
    turns = [*_system(values, place), *turns]
    _ends_with(turns, "user", name, place)
    _check_order(turns, place)
    return turns


def _answer(value: Any, name: str, place: str) -> Turns:
    turns = _answers(value, name, place)
    _ends_with(turns, "assistant", name, place)
    return turns


def _answers(value: Any, name: str, place: str) -> Turns:
    """An answer as text, as one turn, or as turns."""
    if isinstance(value, list):
        return _messages(value, name, place)
    if isinstance(value, dict):
        return _messages([value], name, place)
    return [_turn("assistant", value, name, place)]


def _whole(turns: Turns, place: str) -> Turns:
    """A conversation: it ends with the assistant, and nobody speaks twice."""
    _ends_with(turns, "assistant", "messages", place)
    _check_order(turns, place)
    return turns


def _ends_with(turns: Turns, role: str, name: str, place: str) -> None:
    last = turns[-1]["role"]
    if last != role and not (role == "user" and last == "tool"):
        raise UserError(f"{place}: '{name}' ends with the {last}; the last message must be the {role}'s")


def _check_order(turns: Turns, place: str) -> None:
    """User and assistant take turns, a tool answers the assistant, and a system message comes first."""
    for number, (before, turn) in enumerate(zip([None, *turns], turns, strict=False), 1):
        role = turn["role"]
        if role == "system" and before:
            raise UserError(f"{place}: message {number} is the system's; write it first, or as the user's")
        if role == "tool" and (not before or before["role"] not in ("assistant", "tool")):
            raise UserError(f"{place}: message {number} is a tool's, and no assistant asked for it")
        if before and role == before["role"] and role in ("user", "assistant"):
            raise UserError(
                f"{place}: messages {number - 1} and {number} are both the {role}'s; join them, or write what came between"
            )


def _system(values: Row, place: str) -> Turns:
    return [_turn("system", values["system"], "system", place)] if "system" in values else []


def _messages(value: Any, name: str, place: str) -> Turns:
    if not isinstance(value, list) or not value:
        raise UserError(f"{place}: '{name}' is a list of messages, and this is {_kind(value)}")
    return [_message(turn, number, name, place) for number, turn in enumerate(value, 1)]


def _message(turn: Any, number: int, name: str, place: str) -> dict[str, str]:
    here = f"message {number} of '{name}'"
    if isinstance(turn, dict) and "from" in turn and "role" not in turn:
        turn = {"role": turn["from"], "content": turn.get("value")}
    if not isinstance(turn, dict) or "role" not in turn or not ("content" in turn or turn.get("tool_calls")):
        raise UserError(f"{place}: {here} needs the fields role and content")
    said, calls = turn["role"], turn.get("tool_calls")
    if not isinstance(said, str):
        raise UserError(f"{place}: the role of {here} is {_kind(said)}; {nearest('', ROLES)}")
    role = ALIASES.get(said.lower())
    if role is None:
        raise UserError(f"{place}: {here} has the role '{_short(said)}'; {nearest(_short(said), ROLES)}")
    if said.lower() == "function_call":
        calls = [
            {"type": "function", "function": call}
            for call in _objects(turn["content"], f"function_call in {here}", place)
        ]
        return {"role": role, "content": "", "tool_calls": _calls(calls, here, place)}
    if calls:
        if role != "assistant":
            raise UserError(f"{place}: {here} has tool_calls, and only the assistant calls tools")
        content = turn.get("content") or ""
        _check_text(content, f"content of {here}", place)
        called = {"tool_calls": _calls(calls, f"tool_calls of {here}", place)}
        return {"role": role, "content": content} | _thoughts(turn, here, place) | called
    result = _turn(role, turn["content"], f"content of message {number}", place)
    result |= _thoughts(turn, here, place) if role == "assistant" else {}
    for key in ("tool_call_id", "name") if role == "tool" else ():
        if turn.get(key):
            result[key] = _text(turn[key], key, place)
    return result


def _thoughts(turn: Row, here: str, place: str) -> Row:
    """What the assistant thought, under one of the names that it has in people's files."""
    name = next((name for name in THOUGHTS if turn.get(name) not in (None, "")), None)
    if name is None:
        return {}
    _check_text(turn[name], f"{name} of {here}", place)
    return {"reasoning_content": turn[name]} if turn[name].strip() else {}


def _calls(value: Any, name: str, place: str) -> str:
    """Calls as JSON, of functions with their arguments, as OpenAI's messages have them."""
    calls = _objects(value, name, place)
    functions = [call.get("function", call) for call in calls]
    if not all(isinstance(function, dict) and isinstance(function.get("name"), str) for function in functions):
        raise UserError(f"{place}: a call in {name} needs the function's name and arguments")
    return json.dumps(calls, ensure_ascii=False)


def _objects(value: Any, name: str, place: str) -> list[dict]:
    """One object or a list of them; a string is that as JSON."""
    try:
        value = json.loads(value) if isinstance(value, str) else value
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError, TypeError):
        raise UserError(f"{place}: the {name} is no JSON; write a list of objects") from None
    objects = value if isinstance(value, list) else [value]
    if not all(isinstance(item, dict) for item in objects):
        raise UserError(f"{place}: the {name} is {_kind(value)}; write a list of objects")
    return objects


def _transcript(value: Any, name: str, place: str) -> Turns:
    """The turns of a text of `Human:` and `Assistant:` (Bai et al. 2022)."""
    text = _text(value, name, place).lstrip()
    if not _SPEAKER.match(text):
        raise UserError(f"{place}: the {name} does not begin with 'Human:' or 'Assistant:' on a line of its own")
    pieces = _SPEAKER.split(text)[1:]
    roles = {"Human": "user", "Assistant": "assistant"}
    said = zip(pieces[::2], pieces[1::2], strict=True)
    turns = [_turn(roles[who], what.strip(), f"{name}, what the {who} says", place) for who, what in said]
    _ends_with(turns, "assistant", name, place)
    return turns


_SPEAKER = re.compile(r"(?:^|\n)[ \t]*(Human|Assistant): ?")


# ---- values


def _field(row: Row, field: str, columns: dict[str, str], place: str) -> tuple[str, Any]:
    """Our name of a field, the first of several that the row has, and its value."""
    ours = next((ours for ours in field.split("|") if columns.get(ours, ours) in row), field.split("|")[0])
    name = columns.get(ours, ours)
    if name not in row:
        raise UserError(f"{place}: there is no field '{name}' for the {ours}; {nearest(name, map(_short, row))}")
    if row[name] is None:
        raise UserError(f"{place}: the field '{name}' is null; give it a value or take the row out")
    return ours, row[name]


def _turn(role: str, value: Any, name: str, place: str) -> dict[str, str]:
    return {"role": role, "content": _text(value, name, place)}


def _text(value: Any, name: str, place: str) -> str:
    _check_text(value, name, place)
    if not value.strip():
        raise UserError(f"{place}: the {name} is empty; give it text or take the row out")
    return value


def _check_text(value: Any, name: str, place: str) -> None:
    if not isinstance(value, str):
        raise UserError(f"{place}: the {name} is {_kind(value)}; write a string")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise UserError(f"{place}: the {name} holds half of a surrogate pair; write the whole character") from None


def _label(value: Any, place: str) -> bool:
    written = {"true": True, "false": False, "1": True, "0": False}  # as CSV has them
    if isinstance(value, str):
        value = written.get(value.lower(), value)
    elif not isinstance(value, list | dict) and value in (0, 1):
        value = bool(value)
    if not isinstance(value, bool):
        raise UserError(
            f"{place}: the label is {_kind(value)}; write true for a wanted answer, false for an unwanted one"
        )
    return value


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
    size = len(words.text(content))
    if size > MAX_CHARACTERS:
        raise UserError(
            f"{place}: the row has {size:,} characters, and no model reads more than {MAX_CHARACTERS:,} at once; split it"
        )


def _short(name: Any) -> str:
    """A name out of the file, for a sentence of one line."""
    text = " ".join(str(name).split())
    return text if len(text) <= 40 else f"{text[:39]}…"


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", int: "a number", float: "a number"}
    if value is None or value == []:
        return "null" if value is None else "an empty list"
    return names.get(type(value), f"of the type {type(value).__name__}")


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
