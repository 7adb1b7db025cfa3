"""Which prompts are in which rollout, and which completions in which optimiser step."""

from typing import Any

import numpy as np
import torch

from posttrain.data.row_order import row_order


def schedule(prompts: int, spec: dict) -> tuple[list[list[int]], list[dict]]:
    """Which prompts each rollout has, and one row for each completion that a step trains on.

    A row has its `rollout`, its `slot` among the rollout's completions, and its `peers`, the slots of its optimiser step.
    """
    size, epochs = spec["batch_size"], spec["epochs"]
    rollouts = spec["max_steps"] or max(1, round(prompts * epochs / size))
    order = row_order([1] * prompts, size, epochs, rollouts, spec["seed"])
    rows = []
    for rollout in range(rollouts):
        for epoch in range(spec["ppo_epochs"]):
            slots = np.random.default_rng([spec["seed"], rollout, epoch]).permutation(size)
            for peers in np.split(slots, spec["minibatches"]):
                rows += [{"rollout": rollout, "slot": int(slot), "peers": peers.tolist()} for slot in peers]
    return [order[i * size : (i + 1) * size] for i in range(rollouts)], rows


def collate(rows: list[dict]) -> dict[str, Any]:
    """A forward pass's part of an optimiser step: its rollout, its slots and those of the whole step."""
    slots = torch.tensor([row["slot"] for row in rows])
    return {"rollout": rows[0]["rollout"], "slots": slots, "peers": torch.tensor(rows[0]["peers"])}
