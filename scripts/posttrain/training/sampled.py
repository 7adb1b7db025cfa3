"""Completions that TRL's GRPO and RLOO have sampled and not yet trained on, in each checkpoint.

With several minibatches a checkpoint may lie in the middle of a rollout. TRL would sample it anew from the model that has
already learnt from its first part.
"""

import json
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from posttrain.compat.trainer_internals import rollout_parts, rollout_position, set_rollout
from posttrain.runtime.console import say
from posttrain.training.losses import trainer_fields

CUT = "completions/clipped_ratio"  # TRL's name for the share of completions that did not end


class KeepRollout(TrainerCallback):
    """Add what is left of a rollout to each checkpoint, and hand it back to the trainer that goes on from one."""

    FILE = "answers.pt"

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Let TRL continue its count of micro-batches from a checkpoint, with the completions that it had sampled."""
        if not state.global_step:
            return
        file = _checkpoint(args, state) / self.FILE
        kept = torch.load(file, weights_only=True) if file.exists() else None
        set_rollout(
            self.trainer,
            state.global_step * args.gradient_accumulation_steps,
            None if kept is None else split(kept, args.steps_per_generation),
        )

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """After the checkpoint was written; at the end of a rollout nothing is left."""
        if rollout_position(self.trainer) % args.steps_per_generation:
            torch.save(rollout_parts(self.trainer), _checkpoint(args, state) / self.FILE)


def tell_truncated(name: str, steps: Path, spec: dict[str, Any]) -> None:
    """Say where half of the completions or more were truncated and therefore not trained.

    Args:
        steps: the run's train.jsonl.
    """
    fields = trainer_fields(spec) | spec.get("trainer_args", {})
    lines = [json.loads(line) for line in steps.read_text().splitlines()]
    cut = [line[CUT] for line in lines if CUT in line]
    if fields.get("mask_truncated_completions") and cut and (share := sum(cut) / len(cut)) >= 0.5:
        who = spec.get("variant") or "mask_truncated_completions"
        say(
            f"{name}: {share:.0%} of the completions were truncated at max_new_tokens: {spec['max_new_tokens']}, and {who} leaves "
            "them out of the loss; write a larger max_new_tokens, or trainer_args: {mask_truncated_completions: false}"
        )


def _checkpoint(args: Any, state: Any) -> Path:
    return Path(args.output_dir) / f"checkpoint-{state.global_step}"


def split(parts: list[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """A rollout's parts as `count` parts of the same completions in the same order, as after running out of memory.

    >>> split([{"a": torch.tensor([1, 2]), "n": torch.tensor(3), "b": None}], 2)
    [{'a': tensor([1]), 'n': tensor(3), 'b': None}, {'a': tensor([2]), 'n': tensor(3), 'b': None}]
    """
    if len(parts) == count:
        return parts
    pieces: list[dict[str, Any]] = [{} for _ in range(count)]
    for key, first in parts[0].items():
        if first is None or (isinstance(first, torch.Tensor) and first.ndim == 0):
            values = [first] * count
        elif isinstance(first, torch.Tensor):
            values = list(torch.cat([part[key] for part in parts]).chunk(count))
        else:
            whole = [item for part in parts for item in part[key]]
            size = len(whole) // count
            values = [whole[i * size : (i + 1) * size] for i in range(count)]
        for piece, value in zip(pieces, values, strict=True):
            piece[key] = value
    return pieces
