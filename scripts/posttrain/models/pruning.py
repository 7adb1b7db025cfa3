"""A model without some of its layers: which ones change the hidden states least, and how they are taken out.

Gromov et al. 2024, "The Unreasonable Ineffectiveness of the Deeper Layers": the block of n layers over which the angle between what
goes in and what comes out is smallest is left out, and a training afterwards heals the model.
"""

from typing import Any

import torch
from torch import nn

from posttrain.runtime.errors import UserError

BATCH = 8  # rows that are read at once


def layers(model: Any) -> tuple[Any, str]:
    """The module that holds a causal language model's layers, and the name of the list.

    Raises:
        UserError: there is no one list of them.
    """
    count = model.config.get_text_config().num_hidden_layers
    found = [
        (module, name)
        for module in model.modules()
        for name, child in module.named_children()
        if isinstance(child, nn.ModuleList) and len(child) == count
    ]
    if len(found) != 1:
        raise UserError("unsupported-model", "", f"the layers of a {type(model).__name__} are not one list")
    return found[0]


@torch.no_grad()
def distances(model: Any, rows: list[list[int]], pad_token: int) -> torch.Tensor:
    """Mean angular distance, in units of pi, of the hidden states before two layers (layers + 1, layers + 1).

    d(l, m) = arccos(cos(x_l, x_m)) / pi (Gromov et al. 2024, eq. 7), where x_l goes into layer l and the last one comes out of the last
    layer; a mean over all tokens, as Men et al. 2024 (ShortGPT) have it, since each of these rows ends in the same token.

    Args:
        rows: token ids.
    """
    parent, name = layers(model)
    stack, seen = getattr(parent, name), []

    def keep_input(module: Any, args: tuple, kwargs: dict) -> None:
        seen.append(args[0] if args else kwargs["hidden_states"])

    def keep_output(module: Any, args: tuple, output: Any) -> None:
        seen.append(output[0] if isinstance(output, tuple) else output)

    hooks = [layer.register_forward_pre_hook(keep_input, with_kwargs=True) for layer in stack]
    hooks.append(stack[-1].register_forward_hook(keep_output))
    total = torch.zeros(len(stack) + 1, len(stack) + 1, dtype=torch.float64)
    try:
        for start in range(0, len(rows), BATCH):
            some = rows[start : start + BATCH]
            width = max(map(len, some))
            ids = torch.tensor([[*row, *[pad_token] * (width - len(row))] for row in some], device=model.device)
            lengths = torch.tensor([len(row) for row in some], device=model.device)
            mask = (torch.arange(width, device=model.device)[None] < lengths[:, None]).long()
            seen.clear()
            model(input_ids=ids, attention_mask=mask, use_cache=False)
            states = torch.stack([state[mask.bool()].float() for state in seen], 1)
            states = nn.functional.normalize(states, dim=-1)
            total += torch.acos((states @ states.transpose(1, 2)).clamp(-1, 1)).sum(0).double().cpu() / torch.pi
    finally:
        for hook in hooks:
            hook.remove()
    return total / sum(map(len, rows))


def block(apart: torch.Tensor, count: int) -> list[int]:
    """The `count` layers in a row over which the hidden states change least; of equal ones the first.

    >>> block(torch.tensor([[0.0, 0.3, 0.4], [0.3, 0.0, 0.1], [0.4, 0.1, 0.0]]), 1)
    [1]
    """
    start = int(apart.diagonal(count).argmin())
    return list(range(start, start + count))


def drop(model: Any, dropped: list[int]) -> None:
    """Take layers out of a model, in place, with all that its configuration says of each of them."""
    parent, name = layers(model)
    stack, config = getattr(parent, name), model.config.get_text_config()
    kept = [i for i in range(len(stack)) if i not in dropped]
    for key, value in config.to_dict().items():
        if isinstance(value, list) and len(value) == len(stack):
            setattr(config, key, [value[i] for i in kept])
    config.num_hidden_layers = len(kept)
    setattr(parent, name, nn.ModuleList([stack[i] for i in kept]))
    for number, layer in enumerate(getattr(parent, name)):
        for module in layer.modules():
            if hasattr(module, "layer_idx"):
                module.layer_idx = number
