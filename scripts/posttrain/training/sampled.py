"""Completions that TRL's GRPO and RLOO have sampled and not yet trained on, in each checkpoint.

With several minibatches a checkpoint may lie in the middle of a rollout. TRL would sample it anew from the model that has
already learnt from its first part.
"""

import json
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import send_to_device
from transformers import TrainerCallback

from posttrain.compat.trainer_internals import rollout_parts, rollout_position, set_rollout
from posttrain.runtime import processes
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
        own = None
        if file.exists():
            kept = torch.load(file, map_location="cpu", weights_only=True)
            steps = args.steps_per_generation // args.gradient_accumulation_steps
            own = send_to_device(share(kept, steps, args.steps_per_generation)[processes.rank()], args.device)
        set_rollout(self.trainer, state.global_step * args.gradient_accumulation_steps, own)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """After the checkpoint was written; at the end of a rollout nothing is left."""
        if rollout_position(self.trainer) % args.steps_per_generation:
            of_all = processes.gathered(send_to_device(rollout_parts(self.trainer), "cpu"))
            if processes.is_main():
                torch.save(of_all, _checkpoint(args, state) / self.FILE)


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


def share(kept: list[list[dict[str, Any]]], steps: int, count: int) -> list[list[dict[str, Any]]]:
    """The parts of a rollout for each of this job's processes, `count` for each; each step keeps its completions.

    Args:
        kept: the parts of each process that sampled it, which may have been more or fewer, each with more or fewer parts.
        steps: optimiser steps that a rollout has.
    """
    ranks = processes.count()
    if len(kept) == ranks and len(kept[0]) == count:
        return kept
    shared: list[list[dict[str, Any]]] = [[] for _ in range(ranks)]
    for step in range(steps):
        size = len(kept[0]) // steps
        whole = [part for parts in kept for part in parts[step * size : (step + 1) * size]]
        pieces = split(whole, ranks * count // steps)
        for rank, own in enumerate(shared):
            own += pieces[rank * count // steps : (rank + 1) * count // steps]
    return shared


def split(parts: list[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """Parts as `count` parts of the same completions in the same order.

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
            values = list(_below([part[key] for part in parts], key.startswith("prompt")).chunk(count))
        else:
            whole = [item for part in parts for item in part[key]]
            size = len(whole) // count
            values = [whole[i * size : (i + 1) * size] for i in range(count)]
        for piece, value in zip(pieces, values, strict=True):
            piece[key] = value
    return pieces


def _below(tensors: list[torch.Tensor], left: bool) -> torch.Tensor:
    """Tensors below each other. Processes pad theirs to widths of their own: prompts on the left, completions on the right."""
    if tensors[0].ndim == 1:
        return torch.cat(tensors)
    width = max(tensor.shape[1] for tensor in tensors)
    missing = [width - tensor.shape[1] for tensor in tensors]
    pads = [(n, 0) if left else (0, n) for n in missing]
    return torch.cat([torch.nn.functional.pad(t, pad) for t, pad in zip(tensors, pads, strict=True)])
