"""From normalised rows to token ids and the mask of what is trained, by the rows' dataset type; see `encoding`."""

import functools
import re
from collections import Counter
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from posttrain.data import dataset_types
from posttrain.data.conversations import Turns, render, stops, turn_end, up_to
from posttrain.data.dataset_types import DATASET_TYPES, Settings, prompt_turns
from posttrain.data.encoding import IGNORED, preference_tokens, prompt_tokens, sft_tokens
from posttrain.data.media_text import Reader
from posttrain.data.messages import Row
from posttrain.runtime.atomic import read_json
from posttrain.runtime.errors import UserError, nearest
from posttrain.runtime.resource_limits import memory_limited

__all__ = [
    "IGNORED",
    "Turns",
    "fallback",
    "preference_tokens",
    "prompt_tokens",
    "prompt_turns",
    "questions",
    "render",
    "sft_tokens",
    "stops",
    "tokenise",
    "turn_end",
    "up_to",
]

ROWS_BYTES = 8 << 30  # of a block of rows, with their tokens


def tokenise(
    tokenizer: Any,
    rows: list[Row],
    dataset_type: str,
    max_length: int,
    stops: Sequence[int] = (),
    assistant_turns: str = "all",
    train_thoughts: bool = True,
    long_rows: str = "cut",
    reader: Reader | None = None,
) -> tuple[list[Row], dict[str, Any]]:
    """Tokenise rows, cut them to `max_length` and leave out those without a trained token.

    Args:
        dataset_type: of the rows.
        stops, assistant_turns, train_thoughts: as in `sft_tokens`; completions of preferences are always trained whole.
        long_rows: of texts and conversations, `cut` or `split` into several rows.
        reader: of the files that rows are about, for a dataset type with media.

    Returns:
        The rows, with the token columns of their dataset type, `id` and `length`, and the counts of rows, of trained and all
        tokens, of cut and of dropped rows, of unknown tokens and of those that hold less than a character, with the `lengths` of
        all rows before they were cut. With a reader also `media_cut` and `too_long`, the rows
        that are dropped since they end inside their media, or have a sound that is longer than the base listens.

    Raises:
        UserError: a placeholder would be trained.
    """
    settings = Settings(max_length, stops, assistant_turns, train_thoughts, long_rows, reader)
    counts = {"rows": 0, "tokens": 0, "trained_tokens": 0, "cut": 0, "dropped": 0, "unknown": 0, "fallback": 0}
    counts |= {"media_cut": 0} if reader else {}
    kept, lengths = [], []
    if reader:
        whole = [row for row in rows if not reader.is_too_long(row)]
        counts["dropped"] += len(rows) - len(whole)
        counts["too_long"], rows = len(rows) - len(whole), whole
    with memory_limited(ROWS_BYTES):
        encodings = list(DATASET_TYPES[dataset_type].encode(tokenizer, rows, settings))
    for encoded in encodings:
        lengths.append(encoded.length)
        counts["cut"] += encoded.length > max_length
        if encoded.media_cut:
            counts["media_cut"] += 1
        if not encoded.kept:
            counts["dropped"] += 1
            continue
        counts["rows"] += 1
        counts["tokens"] += encoded.row["length"]
        counts["trained_tokens"] += encoded.trained
        kept.append(encoded.row)
    ids = np.fromiter(chain.from_iterable(row[key] for row in kept for key in row if key.endswith("_ids")), np.int32)
    counts["unknown"] = int((ids == tokenizer.unk_token_id).sum()) if tokenizer.unk_token_id is not None else 0
    counts["fallback"] = int(fallback(tokenizer)[ids].sum())
    if reader:
        _check_placeholders(kept, dataset_type, reader.processor.placeholders)
    if "label" in DATASET_TYPES[dataset_type].token_columns.values():
        counts["classes"] = Counter(row["label"] for row in kept)
    return kept, counts | {"lengths": lengths}


def classes(report: Path) -> list[str]:
    """The labels of the training rows, sorted: the classes of a classifier, by their numbers.

    Args:
        report: of the tokens.
    """
    return sorted(read_json(report)["train"].get("classes", ()))


def unknown_class(label: str, labels: list[str], dataset: str) -> UserError:
    """The error of a row whose label is none of a classifier's `labels`."""
    problem = f"a held-out row has the label '{label}', which no training row has"
    return UserError("unknown-class", f"dataset {dataset}", problem, nearest(label, labels))


def _check_placeholders(rows: list[Row], dataset_type: str, placeholders: set[int]) -> None:
    """What a model sees is never what it has to say: no token that stands for a picture or a sound is trained.

    Raises:
        UserError: one is.
    """
    for row in rows:
        for column in DATASET_TYPES[dataset_type].trained_columns:
            if not placeholders.isdisjoint(row[column]):
                raise UserError(
                    "invalid-row",
                    f"row {row['id']}",
                    "a placeholder of its media would be trained",
                    "take it out of the answer",
                )


@functools.cache
def fallback(tokenizer: Any) -> np.ndarray:
    """(vocabulary,) which tokens hold less than a whole character: what a tokenizer resorts to for text it does not know."""
    tokens = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    if "ByteLevel" not in str(tokenizer.backend_tokenizer.decoder):
        return np.array([re.fullmatch(r"<0x[0-9A-F]{2}>", token or "") is not None for token in tokens])
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    byte = {character: value for value, character in bytes_to_unicode().items()}

    def is_part(token: str) -> bool:
        try:
            return not bytes(map(byte.__getitem__, token)).decode()
        except KeyError:  # a special token, which is text as it is
            return False
        except UnicodeDecodeError:
            return True

    return np.array([is_part(token) for token in tokens])


def questions(tokenizer: Any, rows: list[Row], reader: Reader | None = None) -> list[Row]:
    """Prompts for a model to complete: `id`, `prompt_ids` and `reference`, the row's completion as text; None where it has none.

    With a reader they also have the columns of media. A task has its `turns` and `task` as well.
    """
    found = []
    for row in rows:
        kind = dataset_types.of(row)
        if turns := kind.prompt(row):  # a conversation may open with the assistant
            ids = prompt_tokens(tokenizer, turns, row.get("tools"), reader, row)
            more = {name: row[name] for name in kind.media} if reader else {}
            more |= {"turns": turns, "task": row["task"]} if "task" in row else {}
            found.append({"id": row.get("id"), "prompt_ids": ids, "reference": kind.reference_text(row), **more})
    return found
