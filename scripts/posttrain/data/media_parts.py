"""Messages whose contents are lists of parts, as OpenAI's and the Hub's: each picture or sound becomes a mark in the text.

`{"type": "text", "text": "..."}` is text. `{"type": "image_url", "image_url": {"url": "..."}}`, `{"type": "image", "image": "..."}` (or
`path`, `url`), `{"type": "input_audio", "input_audio": {"data": "...", "format": "wav"}}` and `{"type": "audio", "audio": "..."}` are
files. A part without a file, `{"type": "image"}`, stands for the next one in the row's own column, as a mark in the text does.
"""

from typing import Any

from posttrain.data import dataset_types
from posttrain.data.media import KINDS, Source, Store, sources
from posttrain.data.messages import PARTS, Row, from_json, short
from posttrain.runtime.errors import UserError

COLUMNS = {
    **dict.fromkeys(("image", "image_url", "input_image"), "images"),
    **dict.fromkeys(("audio", "audio_url", "input_audio"), "audios"),
}
_FILES = (
    "image_url",
    "image",
    "input_audio",
    "audio_url",
    "audio",
    "url",
    "path",
)  # keys of a part that may have its file
FIELDS = ("messages", "conversations", "prompt")  # of a row: the first that it has, the media are in


def has_parts(value: Any, column: str) -> bool:
    """Whether some message of a list has a part with a picture, or with a sound."""
    value = from_json(value)
    return isinstance(value, list) and any(
        _column(part) == column
        for turn in value
        if isinstance(turn, dict) and isinstance(turn.get("content"), list)
        for part in turn["content"]
    )


def _column(part: Any) -> str | None:
    """The column of the files of such a part; None of text and of what is no part."""
    what = part.get("type") if isinstance(part, dict) else None
    return COLUMNS.get(what) if isinstance(what, str) else None


def taken_out(values: Row, column: str, place: str) -> tuple[Row, list[Source | None]]:
    """The values of a row's fields with marks in the place of parts, and the file of each mark; None for one of the row's column.

    Returns:
        no files where no part has one.

    Raises:
        UserError: a part is about the other kind of media, or its file is none.
    """
    name = next((name for name in FIELDS if name in values), None)
    turns = from_json(values[name]) if name else None
    if not isinstance(turns, list):
        return values, []
    found: list[Source | None] = []
    marked = [_turn(turn, column, found, place) for turn in turns]
    return values | {name: marked}, found if any(source is not None for source in found) else []


def files(content: Row, given: Any, inline: list[Source | None], column: str, store: Store, place: str) -> list[str]:
    """The names of the files of a normalised row, one for each mark in its prompt, see `Store.names`.

    Args:
        given: the value of the row's column of files; None where it has none.
        inline: see `taken_out`.

    Raises:
        UserError: there are more or fewer marks than files, or the assistant's text has one.
    """
    kind, mark, noun = dataset_types.of(content), KINDS[column].mark, KINDS[column].noun
    if any(mark in turn["content"] for turn in kind.all_turns(content) if turn["role"] == "assistant"):
        problem = f"an answer has {mark}, and a model answers with text alone"
        raise UserError("invalid-row", place, problem, f"show the {noun} in the user's message, or take the row out")
    of_column = [] if given is None else sources(given, column, place)
    marks = sum(turn["content"].count(mark) for turn in content[kind.turns[0]])
    number = len(of_column) + sum(source is not None for source in inline)
    if marks != number:
        problem = f"the text has {marks} {mark} and the row {number} {column}"
        raise UserError("invalid-row", place, problem, "write one for each")
    others = iter(of_column)
    in_order = [next(others) if source is None else source for source in inline] if inline else of_column
    return store.names(in_order, column, place)


def _turn(turn: Any, column: str, found: list[Source | None], place: str) -> Any:
    if not isinstance(turn, dict):
        return turn
    key = "value" if "from" in turn and "role" not in turn else "content"
    content, mark = turn.get(key), KINDS[column].mark
    if isinstance(content, list) and any(_column(part) for part in content):
        text, before = "", ""
        for part in content:
            said = _part(part, column, found, place)
            text += f"\n{said}" if before not in ("", mark) and said != mark else said  # between texts, as elsewhere
            before = said
        return turn | {key: text}
    texts = content if isinstance(content, list) else [content]
    texts = [part.get("text") if isinstance(part, dict) else part for part in texts]
    found += [None] * sum(text.count(mark) for text in texts if isinstance(text, str))
    return turn


def _part(part: Any, column: str, found: list[Source | None], place: str) -> str:
    part = {"type": "text", "text": part} if isinstance(part, str) else part
    what = part.get("type", "text") if isinstance(part, dict) else None
    if what in PARTS and isinstance(part.get("text"), str):
        found += [None] * part["text"].count(KINDS[column].mark)
        return part["text"]
    if _column(part) != column:
        raise UserError(
            "invalid-row",
            place,
            f"a message has a part of the type {short(what)}, and these rows are about {column}",
            "write parts {type: text, text: ...} and parts with a file",
        )
    found.append(_file(part, column, place))
    return KINDS[column].mark


def _file(part: Row, column: str, place: str) -> Source | None:
    value = next((part[key] for key in _FILES if part.get(key) is not None), None)
    if isinstance(value, dict) and isinstance(value.get("bytes"), bytes):
        return value
    if isinstance(value, dict) and isinstance(value.get("url"), str):
        value = value["url"]
    elif isinstance(value, dict) and isinstance(value.get("data"), str):  # OpenAI's sounds
        value = f"data:;base64,{value['data']}"
    if value is None:
        return None
    found = sources(value, column, place)
    if len(found) != 1:
        problem = f"a part of the type {part['type']} has {len(found)} files"
        raise UserError("invalid-row", place, problem, "write a part for each")
    return found[0]
