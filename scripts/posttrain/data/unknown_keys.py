"""The keys of rows and messages that are not read, so that a report can name them: nothing is dropped in silence."""

from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from posttrain.data import messages, rows
from posttrain.data.messages import Row, short

MAX_KEYS = 1000  # keys that are counted: files may have a name for every row
WHOLE = ("tools", "task", "image", "images", "audio", "audios")  # fields that are kept as they are
SEGMENT = {"label", "text"}


def count(row: Row, format: str, columns: dict[str, str], counts: Counter[str]) -> None:
    """Count the keys of a row that have a value and are not read: `key`, or `messages[].key` for a key of messages in a field."""
    names = rows.given(row)
    read, unread = _split(format, tuple(columns.items()), names)
    found = {_shown(name) for name in unread if row[name] not in ("", [], {})}
    for name in read:
        value = row[name]
        if isinstance(value, (dict, list)) or (isinstance(value, str) and value[:1] == "["):
            found.update(f"{_shown(name)}[].{_shown(key)}" for key in _of_turns(value, format))
    for key in found:
        if key in counts or len(counts) < MAX_KEYS:
            counts[key] += 1


def _shown(name: Any) -> str:
    return short(name).encode("utf-8", "backslashreplace").decode()


def add(counts: Counter[str], more: Counter[str]) -> None:
    """Add counts to others, of no more than MAX_KEYS keys."""
    for key, number in more.items():
        if key in counts or len(counts) < MAX_KEYS:
            counts[key] += number


def in_words(counts: dict[str, int], most: int = 8) -> str:
    """The keys for people, the most frequent first."""
    names = sorted(counts, key=lambda key: (-counts[key], key))
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{', '.join(f'{name} ({counts[name]:,})' for name in names[:most])}{more}"


def advice(dataset_type: str, unknown: dict[str, int]) -> str:
    """What to write where a key that is not read may be what the rows are about; nothing where none seems to be.

    Args:
        dataset_type: of the rows.
        unknown: `unknown` of data.json.
    """
    if dataset_type == "prompts" and unknown:
        keys = in_words(unknown)
        return f"the rows are prompts alone, and not read is {keys}; if that is their answer, write `columns: {{completion: NAME}}`"
    if dataset_type == "messages" and "label" in unknown:
        return (
            "the column label is not read; if it says whether an answer is wanted, write `format: unpaired_preference`"
        )
    return ""


@lru_cache(maxsize=256)
def _split(
    format: str, columns: tuple[tuple[str, str], ...], names: frozenset[str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names that are read, but for those that are kept whole, and those that are not, sorted."""
    read = {name: ours for ours, name, _ in rows.fields(format, columns, names) if name in names}
    return tuple(sorted(name for name, ours in read.items() if ours not in WHOLE)), tuple(sorted(names - read.keys()))


def _of_turns(value: Any, format: str) -> Iterator[str]:
    turns = messages.from_json(value)
    if isinstance(turns, dict) and "messages" in turns:  # OpenAI's prompts
        yield from turns.keys() - {"messages", "tools"}
        turns = turns["messages"]
    for turn in [turns] if isinstance(turns, dict) else turns if isinstance(turns, list) else ():
        if not isinstance(turn, dict):
            continue
        known = SEGMENT if format == "segments" else _known(turn.get("role", turn.get("from")))
        if turn.keys() <= known:  # of nearly all
            continue
        for key in turn.keys() - known:
            if turn[key] not in (None, "", [], {}) and not (
                key in messages.TRAINED and not messages.boolean(turn[key])
            ):
                yield key


def _known(role: Any) -> set[str]:
    """The keys that are read of a turn, by its role in any of its words."""
    ours = messages.ALIASES.get(role) or messages.ALIASES.get(role.lower()) if isinstance(role, str) else None
    return messages.FIELDS.get(ours, set())
