"""The files that prompts are about, such as pictures, as inputs of a model."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from posttrain.data import tokens
from posttrain.data.dataset_types import MEDIA
from posttrain.data.messages import Row, Turns

Files = tuple[tuple[str, str], ...]
"""The column that names a file, such as `images`, and its path, in the order of the marks in the prompt. A file is named by its
content: one name is one picture."""


def of(row: Row, folder: Path) -> Files:
    """The files that a row is about; its names are relative to `folder`, the dataset's."""
    return tuple((column, str(folder / name)) for column in MEDIA for name in row.get(column) or ())


def contents(files: Files) -> list[str]:
    """What stands for the content of files wherever they lie: their names."""
    return [Path(path).name for _, path in files]


def prompt_tokens(model: Any, tokenizer: Any, turns: Turns, tools: str | None, files: Files) -> list[int]:
    """Token ids that ask for the assistant's next turn, with the placeholders of its files."""
    if not files:
        return tokens.prompt_tokens(tokenizer, turns, tools)
    processor = model.processor
    text = tokens.render(tokenizer, processor.turns(turns), tools, generate=True)
    return tokenizer(processor.expand(text, opened(processor, files)).text, add_special_tokens=False)["input_ids"]


def opened(processor: Any, files: Files) -> dict[str, list[Any]]:
    """The pictures or sounds of a row, by column."""
    return {column: [processor.open(name, Path(path)) for name, path in files if name == column] for column, _ in files}


def inputs(model: Any, ids: torch.Tensor, files: Iterable[Files]) -> dict[str, torch.Tensor]:
    """What a model reads of the files of n rows beside their token ids; nothing where there are none.

    Args:
        ids: (n, width), padded, with the placeholders of the files.
        files: those of each row.
    """
    rows = [opened(model.processor, some) for some in files]
    if not any(rows):
        return {}
    made = model.processor.inputs(rows) | model.processor.token_types(ids)
    return {name: value.to(model.device) for name, value in made.items()}
