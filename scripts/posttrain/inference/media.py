"""The files that prompts are about, such as pictures, as inputs of a model."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from posttrain.data import dataset_types, tokens
from posttrain.data.dataset_types import MEDIA
from posttrain.data.media_text import Reader
from posttrain.data.messages import Row, Turns
from posttrain.runtime.atomic import read_json
from posttrain.runtime.errors import UserError

Files = tuple[tuple[str, str], ...]
"""The column that names a file, such as `images`, and its path, in the order of the marks in the prompt. A file is named by its
content: one name is one picture."""


def of(row: Row, folder: Path) -> Files:
    """The files that a row is about; its names are relative to `folder`, the dataset's."""
    return tuple((column, str(folder / name)) for column in MEDIA for name in row.get(column) or ())


def of_tokens(rows: list[Row], tokens: Path) -> list[Files]:
    """The files of rows of tokens.

    Args:
        tokens: their folder, whose report says where the dataset lies.
    """
    folder = read_json(tokens / "report.json").get("media")
    return [of(row, tokens / folder) if folder else () for row in rows]


def contents(files: Files) -> list[str]:
    """What stands for the content of files wherever they lie: their names."""
    return [Path(path).name for _, path in files]


def prompt_tokens(model: Any, tokenizer: Any, turns: Turns, tools: str | None, files: Files) -> list[int]:
    """Token ids that ask for the assistant's next turn, with the placeholders of its files.

    Raises:
        UserError: the model reads text only.
    """
    if not files:
        return tokens.prompt_tokens(tokenizer, turns, tools)
    row, read = _row(files), reader(model)
    _check(read and read.processor, row)
    return tokens.prompt_tokens(tokenizer, turns, tools, read, row)


def questions(processor: Any, tokenizer: Any, rows: list[Row], folder: Path) -> list[Row]:
    """Prompts as `tokens.questions` gives them, with the `files` of each where the rows are of a type with media.

    Args:
        processor: the model's; None where it reads text only.
        folder: the dataset's.

    Raises:
        UserError: the model cannot read the files.
    """
    columns = dataset_types.of(rows[0]).media if rows else ()
    if not columns:
        return tokens.questions(tokenizer, rows)
    _check(processor, columns)
    found = tokens.questions(tokenizer, rows, Reader(processor, folder))
    return [row | {"files": of(row, folder)} for row in found]


def _check(processor: Any, columns: Iterable[str]) -> None:
    """Refuse files that a model cannot read.

    Raises:
        UserError: naming them.
    """
    if unread := sorted(set(columns) - set(processor.columns if processor else ())):
        problem = f"the prompts are about {' and '.join(unread)}, which the model cannot read"
        raise UserError("unsupported-model", "", problem, "take a base with a processor of them")


def reader(model: Any) -> Reader | None:
    """What reads files for a model that `loading.load` gave; None for one that reads text only."""
    processor = getattr(model, "processor", None)
    return Reader(processor, Path()) if processor else None


def inputs(model: Any, ids: torch.Tensor, files: Sequence[Files]) -> dict[str, torch.Tensor]:
    """What a model reads of the files of n rows beside their token ids; nothing where there are none.

    Args:
        ids: (n, width), padded, with the placeholders of the files.
        files: those of each row.
    """
    if not any(files):
        return {}
    made = model.processor.inputs([reader(model).opened(_row(some)) for some in files])
    return {name: value.to(model.device) for name, value in (made | model.processor.token_types(ids)).items()}


def _row(files: Files) -> dict[str, list[str]]:
    """Files as the columns of a row."""
    return {column: [path for name, path in files if name == column] for column, _ in files}
