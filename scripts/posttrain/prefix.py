"""Compute a shared beginning once: a chosen and a rejected answer have their prompt, and often half of their text, in common.

Two rows that begin alike become one: the first row, then what the second has of its own. Position ids go on from the
shared part, and the attention mask hides the first row's own part from the second's. So every token sees exactly what it
would see alone, and the shared tokens are computed, and in training differentiated, once instead of twice.
"""

from itertools import pairwise
from typing import Any, NamedTuple

import torch

LEAST_SAVING = 0.15  # of the tokens; below it, the mask costs more than it saves

Row = tuple[int, ...]


class Packed(NamedTuple):
    """Rows in groups of one or two; `where[row][i]` is token i of a row in the flattened (groups * width) tokens."""

    ids: torch.Tensor
    """(groups, width)"""
    positions: torch.Tensor
    """(groups, width)"""
    mask: torch.Tensor
    """(groups, 1, width, width), True where a query (row) may look at a key (column)"""
    where: list[list[int]]


# Full attention in every layer, positions from `position_ids`, nothing that looks at neighbours in another way.
ARCHITECTURES = ("llama", "mistral", "mixtral", "qwen2", "qwen3", "granite", "cohere", "olmo2", "phi3")


def can_share(model: Any) -> bool:
    """Whether the model sees a packed row as it would see it alone: a known architecture without a sliding window."""
    config = model.config.get_text_config()
    windowed = getattr(config, "sliding_window", None)
    return config.model_type in ARCHITECTURES and not windowed and config._attn_implementation == "sdpa"


def pair(rows: list[Row]) -> list[tuple[int, ...]]:
    """Group rows by twos where neighbours in dictionary order begin alike; the others stay alone."""
    order = sorted(range(len(rows)), key=lambda i: rows[i])
    shared = [common(rows[a], rows[b]) for a, b in pairwise(order)] + [0, 0]
    groups, k = [], 0
    while k < len(order):
        if shared[k] and shared[k] >= shared[k + 1]:
            groups.append((order[k], order[k + 1]))
            k += 2
        else:
            groups.append((order[k],))
            k += 1
    return groups


def common(a: Row, b: Row) -> int:
    """Number of tokens with which both rows begin."""
    for i, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return i
    return min(len(a), len(b))


def saving(rows: list[Row], groups: list[tuple[int, ...]]) -> float:
    """Share of the tokens that grouping leaves out."""
    twice = sum(common(rows[group[0]], rows[group[1]]) for group in groups if len(group) == 2)
    return twice / max(1, sum(map(len, rows)))


def pack(rows: list[Row], groups: list[tuple[int, ...]], pad: int) -> Packed:
    """Lay the groups out, padded on the right with the token `pad`."""
    shares = [common(rows[group[0]], rows[group[-1]]) if len(group) == 2 else 0 for group in groups]
    sizes = [sum(len(rows[i]) for i in group) - share for group, share in zip(groups, shares, strict=True)]
    width = max(sizes)
    ids = torch.full((len(groups), width), pad)
    positions = torch.zeros((len(groups), width), dtype=torch.long)
    mask = torch.ones(width, width).tril().bool().repeat(len(groups), 1, 1, 1)
    where: list[list[int]] = [[] for _ in rows]
    for g, (group, share, size) in enumerate(zip(groups, shares, sizes, strict=True)):
        first, n = rows[group[0]], len(rows[group[0]])
        ids[g, :n], positions[g, :n] = torch.tensor(first), torch.arange(n)
        where[group[0]] = list(range(g * width, g * width + n))
        if len(group) == 2:
            second = rows[group[1]]
            ids[g, n:size], positions[g, n:size] = torch.tensor(second[share:]), torch.arange(share, len(second))
            mask[g, 0, n:size, share:n] = False
            where[group[1]] = where[group[0]][:share] + list(range(g * width + n, g * width + size))
    return Packed(ids, positions, mask, where)


def hidden_states(backbone: Any, packed: Packed, device: torch.device) -> torch.Tensor:
    """The last hidden states of all tokens, (groups * width, hidden)."""
    output = backbone(
        input_ids=packed.ids.to(device),
        position_ids=packed.positions.to(device),
        attention_mask=packed.mask.to(device),
        use_cache=False,
    )
    return output.last_hidden_state.flatten(0, 1)


def predicting(where: list[list[int]], labels: torch.Tensor) -> list[int]:
    """Where the hidden state lies that predicts each label, row by row, for `labels` (rows, length) with -100 elsewhere."""
    return [where[row][i - 1] for row, i in (labels != -100).nonzero().tolist() if i > 0]
