"""Recognise a dataset's format by the columns of its first row, including common other names for them.

All columns are considered: `text` next to a prompt and its completion is not the format `text`, and if two columns may be the
completion, only the user can say which.
"""

from typing import Any, NamedTuple

from posttrain.data.dataset_types import DATASET_TYPES
from posttrain.data.formats import COMPLETION_OF, FIELDS, FORMATS
from posttrain.data.media_parts import has_parts
from posttrain.data.messages import SPEAKER, Row, from_json, short
from posttrain.runtime.errors import UserError

# Other names for our fields, used if a row does not have the field itself: names that always mean it, and names that mean it if
# there is none of the first. Case, spaces and hyphens do not count.
NAMES = {
    "prompt": (
        ("prompt", "question", "query", "instruction", "problem", "질문"),
        ("input", "inputs", "user", "human", "request", "user_prompt"),
    ),
    "completion": (
        ("completion", "answer", "response", "output", "solution", "답변", "답"),
        ("target", "targets", "outputs", "assistant", "reply", "ground_truth", "expected", "expected_output"),
    ),
    "chosen": (
        ("chosen", "chosen_response", "response_chosen", "chosen_answer", "preferred", "preferred_output", "accepted"),
    ),
    "rejected": (
        (
            "rejected",
            "rejected_response",
            "response_rejected",
            "rejected_answer",
            "dispreferred",
            "non_preferred_output",
        ),
    ),
    "messages": (("messages", "conversation", "dialogue", "dialog", "chat"),),
    "system": (("system", "system_prompt"),),
}
# The text that an instruction or a question is about.
CONTEXT = ("input", "context")
# Names that mean prompt and completion only together.
PAIRS = (
    ("text", "label"),
    ("text", "summary"),
    ("document", "summary"),
    ("article", "summary"),
    ("dialogue", "summary"),
    ("article", "highlights"),
    ("source", "target"),
)
TAG = "kto_tag"  # LLaMA-Factory's name for the label
# What rows are that have files besides, of formats without files.
WITH_FILES = {
    "images": {
        **dict.fromkeys(("messages", "sharegpt"), "llava"),
        "preference": "image_preference",
        "prompt_completion": "image_prompt_completion",
    },
    "audios": dict.fromkeys(("messages", "sharegpt"), "audio"),
}
NAMED = ("labelled_text",)  # never recognised: a text and a label may be a prompt and its completion
LAST = ("text", "prompts")  # formats with one field; tried last, since other fields may say more
_LOOKS = {
    "hh_rlhf": ", two transcripts of Human and Assistant",
    "ultrachat": ", a list of what user and assistant say in turn",
}


class Recognised(NamedTuple):
    """How the rows are read."""

    format: str
    columns: dict[str, str]
    """our field to the file's"""
    why: str


def recognise(row: Row, columns: dict[str, str]) -> Recognised:
    """The format that a row has, and the sentence that says why.

    Args:
        columns: our field to the file's field, as the configuration says.

    Raises:
        UserError: it has none, or may have several; the sentence has no place yet.
    """
    if "label" not in row and "label" not in columns and _is_boolean(row.get(TAG)):
        columns = columns | {"label": TAG}
    by_names = [format for format in FORMATS if format not in (*LAST, *NAMED)]
    found = _exact(row, by_names, columns) or _renamed(row, columns) or _exact(row, LAST, columns)
    if found:
        return _with_system(row, _with_files(row, found))
    asked = _candidates(row, "prompt", columns, NAMES["prompt"][:1])
    if asked and row[asked[0]] is not None:
        return _with_system(row, _told("prompts", _asking(row, _the("prompt", asked)), columns, row))
    names = [short(name) for name in row if name is not None]
    more = f" and {len(names) - 12} more" if len(names) > 12 else ""
    raise UserError(
        "unknown-format", "", f"its columns {', '.join(names[:12])}{more} fit no known format", _advice(row, names)
    )


def complete(row: Row, format: str, columns: dict[str, str]) -> Recognised:
    """A format that the configuration names, with other names for the fields that a row of it lacks.

    Raises:
        UserError: several columns may be one of its fields.
    """
    must, may = FORMATS[format].required, FORMATS[format].optional
    asks = {"instruction": "prompt", "output": "completion"}
    fields = [field for field in (*must, *may[:1]) if not _present(row, field, columns)]
    found = {}
    for field in fields:
        ours = "prompt" if "prompt" in field.split("|") else "completion" if "completion" in field.split("|") else field
        names = _candidates(row, asks.get(ours, ours), columns) if asks.get(ours, ours) in NAMES else []
        if names:
            found[ours] = _the(ours, names)
    return _told(format, found, columns, row)


# ---- by our own names


def _exact(row: Row, formats: Any, columns: dict[str, str]) -> Recognised | None:
    for format in formats:
        must = FORMATS[format].required
        names = [name for field in must if (name := _present(row, field, columns))]
        if len(names) == len(must) and _looks_like(format, row, columns):
            names += [_answer(row, columns)] if format == "unpaired_preference" and _answer(row, columns) else []
            return Recognised(
                format, columns, f"its first row has the fields {', '.join(names)}{_LOOKS.get(format, '')}"
            )
    return None


def _present(row: Row, field: str, columns: dict[str, str]) -> str | None:
    """The name that the row has for a field, or for one of several."""
    return next((name for ours in field.split("|") if (name := columns.get(ours, ours)) in row), None)


def _answer(row: Row, columns: dict[str, str]) -> str | None:
    """The name of the field that answers the one that is asked in, where a label has an answer of its own."""
    pairs = [(columns.get(ask, ask), columns.get(answer, answer)) for ask, answer in COMPLETION_OF.items()]
    return next((answer for ask, answer in pairs if ask in row and answer in row), None)


def _looks_like(format: str, row: Row, columns: dict[str, str]) -> bool:
    """Whether the fields hold what only this format has in them, where their names do not tell."""
    values = {field: row.get(columns.get(field, field)) for field in FIELDS}
    chosen = values["chosen"]
    media = DATASET_TYPES[FORMATS[format].dataset_type].media
    if media and not _has_files(row, media[0], columns):
        return False
    if format == "hh_rlhf":
        return isinstance(chosen, str) and SPEAKER.match(chosen.lstrip()) is not None
    if format in ("preference", "image_preference"):
        explicit = _present(row, "prompt|conversations|instruction", columns)
        return explicit is not None or (isinstance(chosen, list) and len(chosen) > 1) or _asks(values["messages"])
    if format == "unpaired_preference":
        if _present(row, "prompt", columns) and _present(row, "completion", columns):
            return True
        chat = _present(row, "messages|conversations", columns) or _answer(row, columns)
        return chat is not None and _is_boolean(values["label"])
    if format == "ultrachat":
        return isinstance(values["data"], list) and all(isinstance(text, str) for text in values["data"])
    if format == "prompts":
        return values["prompt"] is not None
    return format != "oasst_pairs"


def _asks(value: Any) -> bool:
    """Whether messages end with a turn that asks for an answer."""
    turns = from_json(value)
    return isinstance(turns, list) and bool(turns) and isinstance(turns[-1], dict) and turns[-1].get("role") == "user"


# ---- by the names that people use


def _renamed(row: Row, columns: dict[str, str]) -> Recognised | None:
    """The format under other names."""
    label = columns.get("label", "label")
    labelled = {"label": label} if _is_boolean(row.get(label)) else {}
    chats = [name for name in _candidates(row, "messages", columns) if _are_turns(from_json(row[name]))]
    if chats:
        found = {"messages": _the("messages", chats)} | labelled
        return _told("unpaired_preference" if labelled else "messages", found, columns, row)
    asked, answers, chosen, rejected = (
        _candidates(row, field, columns) for field in ("prompt", "completion", "chosen", "rejected")
    )
    if asked and chosen and rejected:
        sides = {"chosen": _the("chosen", chosen), "rejected": _the("rejected", rejected)}
        return _told("preference", _asking(row, _the("prompt", asked)) | sides, columns, row)
    pairs = [pair for pair in PAIRS if all(map(_says, (row.get(name) for name in pair)))]
    if asked and answers:
        found = _asking(row, _the("prompt", asked))
        answer = _the("completion", answers)
    elif pairs and not columns.keys() & {"prompt", "completion", "text"}:
        sides = [list(dict.fromkeys(side)) for side in zip(*pairs, strict=True)]
        found, answer, labelled = {"prompt": _the("prompt", sides[0])}, _the("completion", sides[1]), {}
    else:
        return None
    found["output" if "instruction" in found else "completion"] = answer
    plain = "alpaca" if "instruction" in found else "prompt_completion"
    return _told("unpaired_preference" if labelled else plain, found | labelled, columns, row)


def _candidates(row: Row, field: str, columns: dict[str, str], names: Any = ()) -> list[str]:
    """The columns that may be a field: those that have a value, or the field itself if it exists."""
    if field in columns:
        return [columns[field]] if columns[field] in row else []
    taken = set(columns.values())
    for some in names or NAMES[field]:
        found = [name for name in row if name not in taken and _plain(name) in some]
        if found:
            return (
                [name for name in found if name == field] or [name for name in found if row[name] is not None] or found
            )
    return []


def _the(field: str, names: list[str]) -> str:
    """The one column that may be a field.

    Raises:
        UserError: several may be.
    """
    if len(names) > 1:
        said = " and ".join(map(short, names[:4]))
        raise UserError(
            "ambiguous-columns",
            "",
            f"its columns {said} may each be the {field}",
            f"say which is meant with `columns:`, such as {{{field}: {short(names[0])}}}",
        )
    return names[0]


def _asking(row: Row, asked: str) -> dict[str, str]:
    """The columns of the prompt: itself, or an instruction with the text that it is about."""
    names = [name for name in row if _plain(name) in CONTEXT and name != asked and isinstance(row[name], str | None)]
    return {"instruction": asked, "input": names[0]} if names else {"prompt": asked}


def _is_boolean(value: Any) -> bool:
    """Whether a label says yes or no; 0 and 1, which CSV has as text, may as well be classes."""
    return isinstance(value, bool) or (isinstance(value, str) and value.lower() in ("true", "false"))


def _says(value: Any) -> bool:
    """Whether a value is text, and no number in digits, as a class of a CSV file."""
    return isinstance(value, str) and not value.strip().lstrip("-").replace(".", "").isdigit()


def _are_turns(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(turn, dict) and turn.keys() & {"role", "from"} for turn in value)
    )


def _plain(name: Any) -> str:
    return "_".join(str(name).casefold().replace("-", " ").replace("_", " ").split())


def _told(format: str, found: dict[str, str], columns: dict[str, str], row: Row) -> Recognised:
    """The format with the names that were found, and the sentence that says which field is read as which."""
    renamed = {ours: name for ours, name in found.items() if ours != name and columns.get(ours) != name}
    read = f", of which {' and '.join(f'{short(name)} is read as {ours}' for ours, name in renamed.items())}"
    why = f"its first row has the fields {', '.join(map(short, found.values()))}{read if renamed else ''}"
    return Recognised(format, columns | renamed, why)


def _has_files(row: Row, column: str, columns: dict[str, str]) -> bool:
    """Whether a row has a column of pictures, or of sounds, or messages with such parts."""
    values = [row.get(columns.get(field, field)) for field in ("messages", "conversations", "prompt")]
    return _files_of(row, column, columns) is not None or any(has_parts(value, column) for value in values)


def _files_of(row: Row, column: str, columns: dict[str, str]) -> str | None:
    """The name of a row's column of pictures, or of sounds."""
    return _present(row, f"{column}|{column[:-1]}", columns)


def _with_files(row: Row, found: Recognised) -> Recognised:
    """The format of rows with files, where a row under other names has such a column with a value."""
    for column, formats in WITH_FILES.items():
        name = _files_of(row, column, found.columns)
        if found.format in formats and name and row[name]:
            why = f"{found.why}; {short(name)} has its {column}"
            return Recognised(formats[found.format], found.columns, why)
    return found


def _with_system(row: Row, found: Recognised) -> Recognised:
    """The same with the column of system prompts under another name, where the format has one."""
    if "system" in FORMATS[found.format].optional and "system" not in row and "system" not in found.columns:
        name = next(iter(_candidates(row, "system", found.columns)), None)
        if name and isinstance(row[name], str | None):
            why = f"{found.why}; {short(name)} is read as system"
            return Recognised(found.format, found.columns | {"system": name}, why)
    return found


def _advice(row: Row, names: list[str]) -> str:
    """What to write where no format fits."""
    if {"chosen", "rejected"} <= row.keys():
        return (
            "chosen and rejected need what they answer: write a column prompt, or say which one it is with `columns:`, such as "
            f"{{prompt: {next((name for name in names if name not in ('chosen', 'rejected')), 'question')}}}"
        )
    if row.keys() & {"role", "from"} and row.keys() & {"content", "value"}:
        return (
            "they are those of one message: write a row a conversation, {messages: [{role: user, content: ...}, ...]}"
        )
    first = next(iter(names), "question")
    second = next((name for name in names if name != first), "answer")
    return (
        f"say which is which with `columns:`, such as {{prompt: {first}, completion: {second}}}, {{text: {first}}} for plain text, or "
        f"{{prompt: {first}}} with `format: prompts`"
    )
