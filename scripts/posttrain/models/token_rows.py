"""Train the embeddings of a few tokens beside a LoRA adapter: PEFT's `trainable_token_indices`, for tied and untied heads.

A base with `new_tokens` names their ids in config.json, and so does every model that is trained from it. LoRA and QLoRA train
these rows of the input embedding and of the LM head; where the two are tied, PEFT trains one row for both.
"""

from typing import Any

from posttrain.compat.peft_internals import give_token_wrapper_a_bias
from posttrain.methods import METHODS
from posttrain.objectives import OBJECTIVES
from posttrain.runtime.errors import UserError

KEY = "trainable_token_indices"


give_token_wrapper_a_bias()


def arguments(spec: dict, model: Any) -> dict[str, dict[str, list[int]]]:
    """PEFT's `trainable_token_indices` for the new tokens of `model`; nothing where the run sets it, or cannot train rows.

    PPO holds two adapters on one model, and rows of both would be trained apart.
    """
    ids = getattr(model.config, "new_tokens", None)
    can = METHODS[spec["method"]].low_rank and not OBJECTIVES[spec["objective"]].value_model
    if not ids or not can or KEY in spec.get("peft_args", {}):
        return {}
    layers = [model.get_input_embeddings()]
    head = model.get_output_embeddings()
    if head is not None and head.weight is not layers[0].weight:
        layers.append(head)
    return {KEY: {name: ids for name, module in model.named_modules() if any(module is layer for layer in layers)}}


def check(model: Any, requested: Any) -> None:
    """Refuse rows that PEFT would train wrongly or not at all.

    Args:
        requested: `trainable_token_indices`, a list of ids or a table of lists by layer.

    Raises:
        UserError: an id beyond the embedding, or a head with a bias, which PEFT's wrapper leaves out.
    """
    table, head = model.get_input_embeddings(), model.get_output_embeddings()
    ids = [i for part in (requested.values() if isinstance(requested, dict) else [requested]) for i in part]
    beyond = [i for i in ids if not 0 <= i < len(table.weight)]
    if beyond:
        raise UserError(
            "token-without-embedding",
            f"peft_args.{KEY}",
            f"there is no token {beyond[0]}",
            f"the model has embeddings for {len(table.weight)} tokens",
        )
    tied = head is not None and head.weight is table.weight
    names = [name for name, module in model.named_modules() if module is head]
    on_head = tied or (
        isinstance(requested, dict) and any(name.endswith(layer) for name in names for layer in requested)
    )
    if on_head and getattr(head, "bias", None) is not None:
        raise UserError(
            "unsupported-target",
            f"peft_args.{KEY}",
            f"the LM head of a {type(model).__name__} has a bias, which PEFT leaves out where it trains rows of the head",
            "write method: full, or peft_args: {modules_to_save: [...]} with the embedding and the head",
        )
