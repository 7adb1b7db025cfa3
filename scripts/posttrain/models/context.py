"""How many tokens a model reads and writes, and how it knows their positions, by its configuration and its parameters' names."""

import re
from collections.abc import Iterable
from typing import Any

POSITIONS = ("max_position_embeddings", "n_positions", "max_seq_len")  # names of the context in configurations
LEARNT = re.compile(r"(^|\.)(wpe|embed_positions|positions_embed|position_embeddings?)\.weight$")
SCALED = ("dynamic", "longrope")  # rotary positions that depend on the longest row of a batch


def max_positions(config: dict[str, Any]) -> int | None:
    """How many tokens a model can read and write together; None where its configuration does not say."""
    return next((config[name] for name in POSITIONS if config.get(name)), None)


def learns_positions(parameters: Iterable[str]) -> bool:
    """Whether a model of parameters with these names has an embedding for each position, beyond which it cannot go."""
    return any(LEARNT.search(name) for name in parameters)


def rope_scaling(config: dict[str, Any]) -> tuple[str | None, int | None]:
    """How a configuration scales rotary positions, and the context before it does; transformers 4 and 5 name it otherwise."""
    scaling = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind = scaling.get("rope_type", scaling.get("type"))
    original = scaling.get("original_max_position_embeddings") or config.get("original_max_position_embeddings")
    return kind, original or config.get("max_position_embeddings")
