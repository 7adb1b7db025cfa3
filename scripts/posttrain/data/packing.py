"""The key `packing`: rows up to `max_length` made of several examples, which neither see nor count each other.

Examples are put together by best fit, longest first, as in TRL's strategy "bfd"; none is cut. Each begins at position 0, and there is
no attention mask: transformers finds the examples by their positions and masks every other one, and with Flash Attention they are
sequences of their own. A model that takes no notice of positions is found by `check`, before training.
"""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
import torch

from posttrain.compat.transformers_internals import attention_of
from posttrain.data.bins import bins
from posttrain.data.tokens import IGNORED
from posttrain.runtime.errors import UserError

LEAK = 0.01  # of what an example would get from the one before it if they were one text; what is above is no rounding


def packed(rows: Any, size: int) -> Any:
    """A dataset of rows of at most `size` tokens from one of examples with `id`, `input_ids` and `labels`.

    `id` lists the examples, `seq_lengths` their lengths, `trained` counts the tokens that are trained: not the first one of an example,
    which would be predicted from the one before it.
    """
    from datasets import Dataset

    table = rows.data.table.select(["id", "input_ids", "labels"])
    lengths = pa.compute.list_value_length(table["input_ids"]).to_pylist()
    found = bins(lengths, size)
    order = [row for one in found for row in one]
    taken = table.take(pa.array(order)).combine_chunks()
    sizes = np.array([lengths[row] for row in order])
    examples = np.cumsum([0, *map(len, found)])
    tokens = np.concatenate([[0], np.cumsum(sizes)])
    labels = _values(taken["labels"]).to_numpy().copy()
    labels[tokens[:-1]] = IGNORED
    trained = np.concatenate([[0], np.cumsum(labels != IGNORED)])[tokens[examples]]
    return Dataset(
        pa.table(
            {
                "id": _lists(_values(taken["id"]), examples),
                "input_ids": _lists(_values(taken["input_ids"]), tokens[examples]),
                "labels": _lists(pa.array(labels), tokens[examples]),
                "seq_lengths": _lists(pa.array(sizes), examples),
                "trained": pa.array(np.diff(trained)),
            }
        )
    )


def _values(column: pa.ChunkedArray) -> pa.Array:
    """The column's values in one array, those of lists one after the other."""
    whole = pa.concat_arrays(column.chunks)
    return whole.flatten() if pa.types.is_list(whole.type) else whole


def _lists(values: pa.Array, offsets: np.ndarray) -> pa.Array:
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), values)


class Collator:
    """Packed rows side by side, (rows, width): ids, labels, and positions that begin at 0 with each example and on the padding.

    Without Flash Attention. TRL's own collator lays all rows of a batch end to end, whose attention would cost as many times more.
    """

    def __init__(self, pad: int) -> None:
        self.pad = pad

    def __call__(self, rows: list[dict]) -> dict[str, Any]:
        """A row without `seq_lengths`, as held-out ones are, is one example; `tokens` counts what is no padding."""
        width = max(len(row["input_ids"]) for row in rows)
        ids, labels, positions = (torch.full((len(rows), width), value) for value in (self.pad, IGNORED, 0))
        for i, row in enumerate(rows):
            end = len(row["input_ids"])
            ids[i, :end], labels[i, :end] = torch.tensor(row["input_ids"]), torch.tensor(row["labels"])
            lengths = row.get("seq_lengths") or [end]
            positions[i, :end] = torch.cat([torch.arange(length) for length in lengths])
        tokens = sum(len(row["input_ids"]) for row in rows)
        return {"input_ids": ids, "labels": labels, "position_ids": positions, "tokens": tokens}


@torch.no_grad()
def check(model: Any) -> None:
    """Refuse a model whose packed examples see each other.

    Two texts that differ in their first example alone are read twice: with positions that begin anew, where the second example's
    logits must not notice, and as one text, where they do.

    Raises:
        UserError: naming the architecture.
    """
    modes = [(module, module.training) for module in model.modules()]
    types = {p.dtype for p in model.parameters() if p.is_floating_point()}
    narrow = len(types) > 1 or attention_of(model.config) == "flash_attention_2"
    first, second = torch.arange(1, 7), torch.arange(7, 13)
    model.eval()
    try:
        with torch.autocast(model.device.type, torch.bfloat16, enabled=narrow):
            apart, joined = (
                _difference(model, first, second, positions)
                for positions in (torch.arange(6).repeat(2), torch.arange(12))
            )
    finally:
        for module, training in modes:
            module.training = training
    if not apart <= LEAK * joined:
        raise UserError(
            "packing-leaks",
            "",
            f"packing: packed rows would see each other in a model of the type {model.config.model_type}",
            "take packing out",
        )


def _difference(model: Any, first: torch.Tensor, second: torch.Tensor, positions: torch.Tensor) -> float:
    """How far the logits of `second` move at most when what stands before it is turned round."""
    size = model.get_input_embeddings().weight.shape[0]
    logits = [
        model(
            input_ids=(torch.cat([before, second]) % size)[None].to(model.device),
            position_ids=positions[None].to(model.device),
            use_cache=False,
        ).logits[0, len(first) :]
        for before in (first, first.flip(0))
    ]
    return float((logits[0] - logits[1]).abs().max())
