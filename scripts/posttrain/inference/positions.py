"""Models with learnt absolute positions (GPT-2, GPT-Neo, GPT-BigCode, OPT): how many there are, and which a padded row begins at."""

import inspect
import re
from typing import Any

import torch

from posttrain.compat.forward_patches import replace_forward
from posttrain.runtime.errors import UserError

OFFSET = 8  # rows of a table of positions beyond those that the configuration names: OPT and BioGPT have 2


def learnt(model: Any) -> int | None:
    """How many absolute positions a model has learnt; None where its positions are computed."""
    config = model.config.get_text_config()
    positions = getattr(config, "max_position_embeddings", None)  # GPT-2's n_positions answers to this name
    if not isinstance(positions, int):
        return None
    words = model.get_input_embeddings()
    for name, module in model.named_modules():
        table = isinstance(module, torch.nn.Embedding) and module is not words
        if table and re.search("wpe|position", name) and 0 <= module.num_embeddings - positions <= OFFSET:
            return positions
    return None


def check(model: Any, longest: int, what: str) -> None:
    """Refuse rows that are longer than the learnt positions, where the model would end in an IndexError.

    Args:
        longest: tokens of the longest row, virtual ones included.
        what: the place of a refusal, such as "dataset chats".

    Raises:
        UserError: with the number of positions.
    """
    positions = learnt(model)
    if positions is not None and longest > positions:
        raise UserError(
            "too-long",
            what,
            f"the longest prompt and max_new_tokens make {longest} tokens, and the model has learnt {positions} positions",
            "write a smaller max_length or max_new_tokens",
        )


def from_mask(model: Any) -> None:
    """Let a model with learnt positions count them from the attention mask, so that padding on the left takes none.

    TRL's GRPO and RLOO pad prompts on the left and hand over no position ids, and such a model counts from the first pad token.

    Raises:
        UserError: the model takes no position ids.
    """
    if learnt(model) is None:
        return
    backbone = model.base_model
    forward = backbone.forward
    if "position_ids" not in inspect.signature(forward).parameters:
        raise UserError(
            "unsupported-model",
            type(model).__name__,
            "it has learnt positions and takes no position ids, so grpo and rloo, which pad on the left, would shift them",
            "write objective: ppo",
        )

    def counted(self: Any, *args: Any, attention_mask: Any = None, position_ids: Any = None, **options: Any) -> Any:
        begins = options.get("past_key_values") is None
        if position_ids is None and begins and attention_mask is not None and attention_mask.dim() == 2:
            position_ids = (attention_mask.long().cumsum(-1) - 1).clamp(min=0)
        return forward(*args, attention_mask=attention_mask, position_ids=position_ids, **options)

    replace_forward(backbone, counted, signature=type(backbone).forward)
