"""Compute a shared beginning once: a chosen and a rejected answer have their prompt, and often half of their text, in common.

Rows that begin alike become one: the first row, then what the second has of its own, then the third. Position ids go on
from the shared part, and the attention mask hides every other row's own part. So every token sees exactly what it would
see alone, and the shared tokens are computed, and in training differentiated, once instead of twice or more.
"""

from itertools import pairwise
from typing import Any, NamedTuple

import torch

from posttrain.compat.transformers_internals import attention_of

MIN_SAVING = 0.15  # of the tokens; below it, the mask costs more than it saves

Row = tuple[int, ...]


class Packed(NamedTuple):
    """Rows in groups; `where[row][i]` is token i of a row in the flattened (groups * width) tokens."""

    ids: torch.Tensor
    """(groups, width)"""
    positions: torch.Tensor
    """(groups, width)"""
    mask: torch.Tensor
    """(groups, 1, width, width), True where a query (row) may look at a key (column)"""
    where: list[list[int]]


# Full attention in every layer, positions from `position_ids`, nothing that looks at neighbours in another way. A test
# compares each one's packed rows with the rows alone.
ARCHITECTURES = tuple(
    "apertus arcee cohere ernie4_5 flex_olmo gemma glm glm4 gpt_neox granite granitemoe granitemoeshared helium "
    "hunyuan_v1_dense jetmoe llama mistral mixtral nemotron olmo olmo2 olmoe persimmon phi phi3 phimoe qwen2 qwen2_moe qwen3 "
    "qwen3_moe seed_oss smollm3 stablelm starcoder2".split()
)


def can_share(model: Any) -> bool:
    """Whether the model sees a packed row as it would see it alone: a known architecture of text without a sliding window."""
    config = model.config.get_text_config()
    windowed = getattr(config, "sliding_window", None)
    return (
        config is model.config
        and config.model_type in ARCHITECTURES
        and not windowed
        and attention_of(config) == "sdpa"
    )


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


def groups(rows: list[Row], hidden_size: int, most: int) -> list[tuple[int, ...]]:
    """Group rows, neighbours in dictionary order, where that saves `MIN_SAVING` of what a row costs alone.

    A layer computes about 12 hidden_size^2 products for a token in its matrices and 2 width x hidden_size in attention,
    so `width` tokens in one row cost width (6 hidden_size + width), up to a factor. No group has more than `most` tokens.
    """

    def cost(width: int) -> int:
        return width * (6 * hidden_size + width)

    found: list[list[int]] = []
    width = 0
    for i in sorted(range(len(rows)), key=lambda i: rows[i]):
        joined = width + len(rows[i]) - common(rows[found[-1][-1]], rows[i]) if found else most + 1
        if joined <= most and cost(joined) - cost(width) <= (1 - MIN_SAVING) * cost(len(rows[i])):
            found[-1].append(i)
            width = joined
        else:
            found.append([i])
            width = len(rows[i])
    return [tuple(group) for group in found]


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


def size(rows: list[Row], group: tuple[int, ...]) -> int:
    """Number of tokens of a group, what a row shares with the one before it counted once."""
    return sum(len(rows[i]) for i in group) - sum(common(rows[a], rows[b]) for a, b in pairwise(group))


def pack(rows: list[Row], groups: list[tuple[int, ...]], pad: int) -> Packed:
    """Lay the groups out, padded on the right with the token `pad`."""
    width = max(size(rows, group) for group in groups)
    ids = torch.full((len(groups), width), pad)
    positions = torch.zeros((len(groups), width), dtype=torch.long)
    mask = torch.ones(width, width).tril().bool().repeat(len(groups), 1, 1, 1)
    where: list[list[int]] = [[] for _ in rows]
    for g, group in enumerate(groups):
        begin = 0
        for before, i in pairwise((None, *group)):
            row = rows[i]
            share = 0 if before is None else common(rows[before], row)
            shared = [] if before is None else where[before][:share]
            end = begin + len(row) - share
            ids[g, begin:end] = torch.tensor(row[share:], dtype=torch.long)
            positions[g, begin:end] = torch.arange(share, len(row))
            mask[g, 0, begin:end, :begin] = False
            mask[g, 0, begin:end, [place - g * width for place in shared]] = True
            where[i] = [*shared, *range(g * width + begin, g * width + end)]
            begin = end
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
