"""Rows with pictures or sounds as a batch: their tokens padded, and what the processor makes of the files at each step.

Pixels are computed when they are needed, since a picture takes a thousand times the space of its tokens. Opening and resizing a
picture is deterministic, so a training that is resumed sees the same bits.
"""

from argparse import Namespace
from pathlib import Path
from typing import Any

from posttrain.data.dataset_types import DATASET_TYPES, MEDIA
from posttrain.data.media_text import Reader
from posttrain.models import processors
from posttrain.runtime.atomic import read_json

RENAMED = "{}_files"  # TRL takes a column `images` for pictures, which it would tokenise itself


def columns(tokens: Path) -> tuple[str, ...]:
    """The columns of media of the rows in a folder of tokens."""
    return DATASET_TYPES[read_json(tokens / "report.json")["shape"]].media


def renamed(rows: Any, names: tuple[str, ...]) -> Any:
    """A dataset whose columns of media have names that mean nothing to TRL."""
    return rows.rename_columns({name: RENAMED.format(name) for name in names}) if names and rows is not None else rows


def named(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of a dataset of `renamed`, with their own names again."""
    own = {RENAMED.format(name): name for name in MEDIA}
    return [{own.get(key, key): value for key, value in row.items()} for row in rows]


class Collator:
    """Rows of input_ids, labels and files -> a batch with everything that the model reads.

    Args:
        reader: see `processors.reader`.
        pad: the collator of the tokens alone.
        columns: of media.
        sequences: of one row in a batch, all about the same files: first the first of each row, then the second of each.
    """

    def __init__(self, reader: Reader, pad: Any, columns: tuple[str, ...], sequences: int = 1) -> None:
        self.reader, self.pad, self.columns, self.sequences = reader, pad, columns, sequences

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """The batch."""
        own = {RENAMED.format(name): name for name in self.columns}
        batch = self.pad([{name: value for name, value in row.items() if name not in own} for row in rows])
        files = [{name: row[key] for key, name in own.items()} for row in rows] * self.sequences
        processor = self.reader.processor
        return (
            batch
            | processor.inputs([self.reader.opened(row) for row in files])
            | processor.token_types(batch["input_ids"])
        )


def for_sft(options: Namespace, tokenizer: Any, columns: tuple[str, ...]) -> Collator:
    """The collator of supervised fine-tuning.

    Args:
        options: of the stage; of it `parent` and `tokens`.
    """
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    pad = DataCollatorForLanguageModeling(pad_token_id=tokenizer.pad_token_id)
    return Collator(processors.reader(options.parent, options.tokens), pad, columns)


def arguments(options: Namespace) -> dict[str, bool]:
    """What the trainer's configuration needs so that rows keep the names of their files."""
    return {"remove_unused_columns": False} if columns(options.tokens) else {}


def for_pairs(options: Namespace, tokenizer: Any) -> Collator | None:
    """The collator of DPO, whose batches have the chosen completions of all rows before the rejected ones; None without media.

    Args:
        options: as for `for_sft`.
    """
    from trl.trainer.dpo_trainer import DataCollatorForPreference

    media = columns(options.tokens)
    if not media:
        return None
    pad = DataCollatorForPreference(pad_token_id=tokenizer.pad_token_id)
    return Collator(processors.reader(options.parent, options.tokens), pad, media, sequences=2)
