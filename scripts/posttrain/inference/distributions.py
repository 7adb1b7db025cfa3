"""What a model predicts at the trained positions of rows: whole distributions, or a teacher's most likely tokens as they are stored."""

import hashlib
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from posttrain.data.tokens import IGNORED


class Top(NamedTuple):
    """A teacher's most likely tokens at n positions."""

    ids: torch.Tensor
    """(n, k)"""
    log_probs: torch.Tensor
    """(n, k) at the temperature of the run"""
    rest: torch.Tensor
    """(n,) logarithm of the probability that all other tokens have together; -inf where there are no others"""


def pad(rows: list[dict], pad_token: int) -> dict[str, torch.Tensor]:
    """Rows of `input_ids` and `labels` as one batch, padded on the right, with its `attention_mask`."""
    ids, labels = ([torch.tensor(row[key]) for row in rows] for key in ("input_ids", "labels"))
    return {
        "input_ids": pad_sequence(ids, batch_first=True, padding_value=pad_token),
        "attention_mask": pad_sequence(list(map(torch.ones_like, ids)), batch_first=True),
        "labels": pad_sequence(labels, batch_first=True, padding_value=IGNORED),
    }


def logits(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Logits (n, v) in float32 that predict the n labels of a batch (b, l), row by row.

    The LM head is applied only at positions where a row of the batch has a label.
    """
    trained = batch["labels"][:, 1:] != IGNORED
    columns = trained.any(0).nonzero()[:, 0]
    given = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"], "use_cache": False}
    found = model(**given, logits_to_keep=columns).logits
    return found[trained[:, columns]].float()


def top(found: torch.Tensor, count: int, temperature: float) -> Top:
    """The most likely tokens of logits (n, v), by falling probability."""
    scaled = found / temperature
    total = scaled.logsumexp(-1, keepdim=True)
    values, ids = scaled.topk(min(count, scaled.shape[-1]), -1)
    rest = scaled.scatter(-1, ids, -torch.inf).logsumexp(-1) - total[:, 0]
    return Top(ids, values - total, rest)


def fingerprint(row: dict) -> str:
    """What tells whether a row has the tokens and the labels that a teacher has read."""
    numbers = np.array([*row["input_ids"], *row["labels"]], np.int64)
    return hashlib.sha256(numbers.tobytes()).hexdigest()[:16]
