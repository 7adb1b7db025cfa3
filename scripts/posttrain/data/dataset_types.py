"""The dataset types: what the rows of a dataset are once they are normalised, whatever format they were written in; one row each.

Nothing else compares a dataset type's name: code asks for a property of its row. A new type is a row of DATASET_TYPES, with the
function that tokenises it where no existing one fits, and a row of FORMATS that makes such rows.

A normalised row has `id` (a hash of its content), `place` (file and line) and the columns of its type; for turns see `messages`. It
may have `tools`, the functions that can be called, as JSON.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any, NamedTuple

from posttrain.data.encoding import (
    IGNORED,
    completion_tokens,
    preference_tokens,
    prompt_tokens,
    training_rows,
)
from posttrain.data.media_text import Reader
from posttrain.data.messages import Row, Turns
from posttrain.metrics.tool_calls import message_text


class Settings(NamedTuple):
    """How rows are tokenised."""

    max_length: int
    stops: Sequence[int] = ()
    """token ids that end a completion, in addition to EOS"""
    assistant_turns: str = "all"
    """which turns of a conversation are trained: `all` or `last`"""
    train_thoughts: bool = True
    long_rows: str = "cut"
    """whether a text of more than `max_length` tokens is `cut` there, or `split` into rows of that length"""
    reader: Reader | None = None
    """of the files that rows are about, for dataset types with media"""


class Encoded(NamedTuple):
    """A row of tokens."""

    row: Row
    """`id`, `length` and the token columns of its dataset type"""
    trained: int
    """number of trained tokens"""
    length: int
    """number of tokens before it was cut"""
    kept: bool
    """whether it is of use: something of it is trained, or there is room for a completion"""
    media_cut: bool = False
    """whether it is left out because a picture or a sound would be cut"""


@dataclass(frozen=True, kw_only=True)
class DatasetType:
    """What a row holds, and what follows from that for tokens, splits, comparisons and measurements."""

    columns: dict[str, str]
    """name to kind: `string`, `strings`, `boolean`, `number`, `label` (of a class), `spans` (first and last character of parts), or
    `turns`. The first column of turns has the prompt, the others have its completions. No two types have the same columns"""
    encode: Callable[[Any, list[Row], Settings], Iterator[Encoded]]
    """tokenise rows: tokenizer, rows, settings"""
    conversation: bool = False
    """its one column of turns ends with the completion"""
    tools: bool = True
    """a row may have `tools`"""
    media: tuple[str, ...] = ()
    """columns with the files that the prompt is about, such as images"""
    reference: str | None = None
    """column whose last turn is the completion that a generated one is compared with"""
    derived: tuple[str, ...] = ()
    """completions that are made from another one: two rows are not the same for having the same"""
    marks: dict[str, Callable[[Row], str]] = field(default_factory=dict)
    """of a completion, what it is worth: the same words are something else as a rejected completion"""
    suites: tuple[str, ...] = ()
    """kinds of evaluation suites that can measure its held-out rows; perplexity and preference do without being configured. A
    kind that no type names, such as generation, compares answers with references, and measures every type that has them"""

    @cached_property
    def turns(self) -> tuple[str, ...]:
        """Columns of turns, in the order in which they are read."""
        return tuple(name for name, kind in self.columns.items() if kind == "turns")

    @cached_property
    def completions(self) -> tuple[str, ...]:
        """Columns of completions to the prompt; none of a conversation, which has both in one column."""
        return self.turns[1:]

    @cached_property
    def texts(self) -> tuple[str, ...]:
        """Columns of the text that a model reads: turns, or else the text itself."""
        return self.turns or ("text",)

    @cached_property
    def answer(self) -> str | None:
        """Column of which the last turn is the first completion; None where there is none."""
        return next(iter(self.turns if self.conversation else self.completions), None)

    @cached_property
    def facts(self) -> tuple[str, ...]:
        """Columns that tell two rows of the same words apart: labels, scores, media and tasks."""
        apart = [
            name for name, kind in self.columns.items() if kind in ("string", "strings") and name not in self.texts
        ]
        return (*self.worth, *apart)

    @cached_property
    def worth(self) -> tuple[str, ...]:
        """Columns that say what a completion is worth, which its rows of tokens have as well."""
        return tuple(name for name, kind in self.columns.items() if kind in ("boolean", "number", "label"))

    @cached_property
    def token_columns(self) -> dict[str, str]:
        """Columns of its rows of tokens, name to kind, in addition to `id` and `length`."""
        if self.worth and not self.turns:
            return {"input_ids": "ids"} | {name: self.columns[name] for name in self.worth}
        if self.conversation or not self.turns:
            return {"input_ids": "ids", "labels": "ids"} | dict.fromkeys(self.media, "strings")
        facts = {name: self.columns[name] for name in (*self.worth, *self.media)}
        return {f"{name}_ids": "ids" for name in self.turns} | facts

    @cached_property
    def trained_columns(self) -> tuple[str, ...]:
        """Token columns with what is trained."""
        return tuple(f"{name}_ids" for name in self.completions) or (
            () if "labels" not in self.token_columns else ("labels",)
        )

    def prompt(self, row: Row) -> Turns:
        """What comes before a row's completion; nothing where a conversation opens with the assistant, or in a text."""
        if not self.turns:
            return []
        turns = row[self.turns[0]]
        return turns[:-1] if self.conversation else turns

    def answers(self, row: Row) -> list[Turns]:
        """A row's completions."""
        return [row[self.turns[0]][-1:]] if self.conversation else [row[name] for name in self.completions]

    def reference_text(self, row: Row) -> str | None:
        """The completion, with its tool calls, that a generated one is compared with; None where there is none."""
        return message_text(row[self.reference][-1]) if self.reference else None

    def text(self, row: Row) -> str:
        """All text of a row."""
        return "\n".join(turn["content"] for turn in self.all_turns(row)) if self.turns else row["text"]

    def all_turns(self, row: Row) -> Iterator[dict[str, Any]]:
        """All turns of a row, in the order in which they are read."""
        for name in self.turns:
            yield from row.get(name) or ()


# ---- tokens


def _encode_text(tokenizer: Any, rows: list[Row], settings: Settings) -> Iterator[Encoded]:
    """Texts and conversations, of which `labels` marks what is trained."""
    limit = settings.max_length
    choice = (settings.stops, settings.assistant_turns, settings.train_thoughts, settings.reader)
    for found in training_rows(tokenizer, rows, *choice):
        split = settings.long_rows == "split"
        starts = window_starts(len(found.ids), limit) if split else [0]
        for k, start in enumerate(starts):
            part, own = found.ids[start : start + limit], found.labels[start : start + limit]
            trained = len(own[1:]) - own[1:].count(IGNORED)
            row = {
                "id": found.id if len(starts) == 1 else f"{found.id}.{k}",
                "length": len(part),
                "input_ids": part,
                "labels": own,
                **(found.media or {}),
            }
            media_cut = found.media_end > limit
            length = len(part) if split else len(found.ids)
            yield Encoded(row, trained, length, trained > 0 and not media_cut, media_cut)


def window_starts(length: int, size: int) -> list[int]:
    """Where the rows of at most `size` tokens begin into which a text of `length` tokens is split.

    Each begins with the last token of the one before it, so that every token but the text's first is predicted exactly once.

    >>> window_starts(7, 4), window_starts(8, 4), window_starts(4, 4)
    ([0, 3], [0, 3, 6], [0])
    """
    return list(range(0, max(1, length - 1), size - 1))


def _encode_pair(tokenizer: Any, rows: list[Row], settings: Settings) -> Iterator[Encoded]:
    """Preferences; a pair whose completions are the same once they are cut teaches nothing."""
    pairs = preference_tokens(tokenizer, rows, settings.stops, settings.reader)
    for row, (prompt, chosen, rejected) in zip(rows, pairs, strict=True):
        longest = max(len(chosen), len(rejected))
        room = max(0, settings.max_length - len(prompt))
        completions = {"chosen_ids": chosen[:room], "rejected_ids": rejected[:room]}
        differ = completions["chosen_ids"] != completions["rejected_ids"]
        trained = sum(map(len, completions.values())) if differ else 0
        length = len(prompt) + min(longest, room)
        media = {name: row[name] for name in of(row).media}
        encoded = {"id": row["id"], "length": length, "prompt_ids": prompt, **completions, **media}
        yield Encoded(encoded, trained, len(prompt) + longest, trained > 0, bool(media) and not room)


def _encode_completion(tokenizer: Any, rows: list[Row], settings: Settings) -> Iterator[Encoded]:
    """A prompt with one completion, and its label or score."""
    found = completion_tokens(tokenizer, rows, "completion", settings.stops)
    for row, (prompt, completion) in zip(rows, found, strict=True):
        kept = completion[: max(0, settings.max_length - len(prompt))]
        encoded = {"prompt_ids": prompt, "completion_ids": kept} | {name: row[name] for name in of(row).worth}
        encoded = {"id": row["id"], "length": len(prompt) + len(kept), **encoded}
        yield Encoded(encoded, len(kept), len(prompt) + len(completion), len(kept) > 0)


def _encode_prompt(tokenizer: Any, rows: list[Row], settings: Settings) -> Iterator[Encoded]:
    """Prompts, which are never cut; one that leaves no room for a completion is left out."""
    for row in rows:
        ids = prompt_tokens(tokenizer, row["prompt"], row.get("tools"))
        encoded = {"id": row["id"], "length": len(ids), "prompt_ids": ids}
        yield Encoded(encoded, 0, len(ids), len(ids) < settings.max_length)


def _encode_labelled(tokenizer: Any, rows: list[Row], settings: Settings) -> Iterator[Encoded]:
    """Texts with the label of their class, as transformers' text-classification pipeline reads them: without EOS."""
    for row in rows:
        ids = tokenizer(row["text"])["input_ids"]
        kept = ids[: settings.max_length]
        encoded = {"id": row["id"], "length": len(kept), "input_ids": kept, "label": row["label"]}
        yield Encoded(encoded, len(kept), len(ids), len(kept) > 0)


# ---- the table


DATASET_TYPES: dict[str, DatasetType] = {
    "text": DatasetType(
        columns={"text": "string", "trained": "spans"}, encode=_encode_text, tools=False, suites=("perplexity",)
    ),
    "labelled_text": DatasetType(
        columns={"text": "string", "label": "label"}, encode=_encode_labelled, tools=False, suites=("classes",)
    ),
    "messages": DatasetType(
        columns={"messages": "turns"},
        encode=_encode_text,
        conversation=True,
        reference="messages",
        suites=("perplexity", "reward", "judge"),
    ),
    "image_messages": DatasetType(
        columns={"messages": "turns", "images": "strings"},
        encode=_encode_text,
        conversation=True,
        media=("images",),
        reference="messages",
        suites=("perplexity",),
    ),
    "audio_messages": DatasetType(
        columns={"messages": "turns", "audios": "strings"},
        encode=_encode_text,
        conversation=True,
        media=("audios",),
        reference="messages",
        suites=("perplexity",),
    ),
    "preference": DatasetType(
        columns={"prompt": "turns", "chosen": "turns", "rejected": "turns"},
        encode=_encode_pair,
        reference="chosen",
        derived=("rejected",),
        marks={"rejected": lambda row: "rejected"},
        suites=("preference", "reward", "judge"),
    ),
    "image_preference": DatasetType(
        columns={"prompt": "turns", "chosen": "turns", "rejected": "turns", "images": "strings"},
        encode=_encode_pair,
        media=("images",),
        reference="chosen",
        derived=("rejected",),
        marks={"rejected": lambda row: "rejected"},
        suites=("preference",),
    ),
    "unpaired_preference": DatasetType(
        columns={"prompt": "turns", "completion": "turns", "label": "boolean"},
        encode=_encode_completion,
        marks={"completion": lambda row: repr(row["label"])},
    ),
    "prompts": DatasetType(columns={"prompt": "turns"}, encode=_encode_prompt, suites=("reward", "judge")),
    "tasks": DatasetType(
        columns={"prompt": "turns", "task": "string"}, encode=_encode_prompt, tools=False, suites=("environment",)
    ),
}

TURNS = tuple(dict.fromkeys(name for row in DATASET_TYPES.values() for name in row.turns))
COMPLETIONS = tuple(dict.fromkeys(name for row in DATASET_TYPES.values() for name in row.completions))
MEDIA = tuple(dict.fromkeys(name for row in DATASET_TYPES.values() for name in row.media))


def for_suites(*kinds: str) -> tuple[str, ...]:
    """The dataset types that one of these kinds of evaluation suites can measure."""
    named = {kind for row in DATASET_TYPES.values() for kind in row.suites}
    return tuple(
        name
        for name, row in DATASET_TYPES.items()
        if set(kinds) & set(row.suites) or (not named.issuperset(kinds) and row.reference)
    )


def together(names: Iterable[str]) -> str | None:
    """The dataset type that rows of several types have in a mixture: one of them, which the others lack only the media of.

    >>> together(["messages", "image_messages"]), together(["messages", "preference"])
    ('image_messages', None)
    """
    names = set(names)
    largest = max(names, key=lambda name: len(DATASET_TYPES[name].columns))
    whole = DATASET_TYPES[largest]
    text = {name: kind for name, kind in whole.columns.items() if name not in whole.media}
    return largest if all(DATASET_TYPES[name].columns == text for name in names - {largest}) else None


def of(names: Iterable[str]) -> DatasetType:
    """The dataset type of rows that have these columns, such as a row itself or the names of a table's schema."""
    return _of(frozenset(names))


def prompt_turns(row: Row) -> Turns:
    """What comes before a row's completion, see `DatasetType.prompt`."""
    return of(row).prompt(row)


@cache
def _of(names: frozenset[str]) -> DatasetType:
    fitting = [row for row in DATASET_TYPES.values() if {*row.texts, *row.media} <= names]
    return max(fitting, key=lambda row: len(names & row.columns.keys()))
