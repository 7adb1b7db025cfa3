"""Which rows each of several processes trains in a step: together exactly the rows that one process alone trains in it.

accelerate's own shares repeat rows at the end of a dataset, so that each process has as many. Here the last step of a training, which
may be incomplete, has micro-batches of different sizes. The gradient of each is weighted by its rows, and a process without a row
takes part with one that has no weight, since each process has to take part in each backward pass.
"""

import math
from typing import Any

import torch

from posttrain.compat.trainer_internals import RankSampler
from posttrain.compat.trl_trainers import gathers_means
from posttrain.data.tokens import IGNORED
from posttrain.runtime import processes


def shares(rows: int, batch_size: int, micro_batch: int, count: int) -> list[list[list[int]]]:
    """The rows of each process in each micro-batch, in the order of training; they may differ by one row in the last step.

    Neighbours, which are of similar lengths, go to different processes, so that these have as much to do.

    Args:
        rows: number of rows, which are in the order of training.
        batch_size: rows in a step of all processes together.
        micro_batch: rows in a forward pass of one process.
        count: number of processes.
    """
    steps = [range(start, min(start + batch_size, rows)) for start in range(0, rows, batch_size)]
    together = [
        step[start : start + micro_batch * count]
        for step in steps
        for start in range(0, len(step), micro_batch * count)
    ]
    return [[list(group[rank::count]) for rank in range(count)] for group in together]


def take(trainer: Any, batch_size: int) -> None:
    """Let a trainer of one of several processes train its share of the rows; to be called before training.

    Args:
        batch_size: rows in a step of all processes together.
    """
    rows, micro_batch = trainer.train_dataset, trainer.args.per_device_train_batch_size
    dealt = shares(len(rows), batch_size, micro_batch, processes.count())
    own = [share[processes.rank()] for share in dealt]
    trainer._get_train_sampler = lambda *_: RankSampler([share or [len(rows)] for share in own])
    trainer.accelerator.even_batches = False  # accelerate would refuse batches of several sizes
    trainer.train_dataset = _with_idle_row(rows)
    last = len(rows) % batch_size
    if last:
        LastStep(trainer, own[-math.ceil(last / (micro_batch * processes.count())) :], last)


def _with_idle_row(rows: Any) -> Any:
    """The dataset and, at its end, a row for a process that has none: short where it is of tokens, and with no trained token."""
    from datasets import Dataset, concatenate_datasets

    row = rows[0]
    if "id" in row:
        row |= {"id": [] if isinstance(row["id"], list) else None}
    if "labels" in row:
        row |= {"input_ids": row["input_ids"][:2], "labels": [IGNORED] * 2}
        row |= {"seq_lengths": [2]} if "seq_lengths" in row else {}
    return concatenate_datasets([rows, Dataset.from_list([row], features=rows.features)])


class LastStep:
    """Weighs the micro-batches of an incomplete last step by their rows, as well as the numbers that are logged.

    Args:
        shares: this process's rows in each micro-batch of the step.
        rows: of all processes in the step.
    """

    def __init__(self, trainer: Any, shares: list[list[int]], rows: int) -> None:
        self.trainer, self.shares, self.rows = trainer, shares, rows
        self.done = 0
        self.compute_loss = trainer.compute_loss
        trainer.compute_loss = self.weighted

    def weighted(self, model: Any, inputs: dict, *args: Any, num_items_in_batch: Any = None, **kwargs: Any) -> Any:
        """The trainer's loss, by which all processes' gradients have the mean over the step's rows as their mean.

        A mean over the step's tokens (`num_items_in_batch`) is that already.
        """
        kwargs |= {"num_items_in_batch": num_items_in_batch}
        state = self.trainer.state
        if not self.trainer.model.training or state.global_step < state.max_steps - 1:
            return self.compute_loss(model, inputs, *args, **kwargs)
        share = self.shares[self.done]
        self.done += 1
        accelerator = self.trainer.accelerator
        gather, gather_for_metrics = accelerator.gather, accelerator.gather_for_metrics
        accelerator.gather = accelerator.gather_for_metrics = lambda tensor: _gathered(
            tensor, len(share), gathers_means(self.trainer)
        )
        try:
            loss = self.compute_loss(model, inputs, *args, **kwargs)
        finally:
            accelerator.gather, accelerator.gather_for_metrics = gather, gather_for_metrics
        if num_items_in_batch is not None:
            return loss
        return loss * (len(share) * len(self.shares) * processes.count() / self.rows)


def _gathered(tensor: torch.Tensor, rows: int, of_means: bool) -> torch.Tensor:
    """The tensors of all processes with rows, one after the other; they may be of different lengths.

    Args:
        rows: of this process.
        of_means: whether a number is a mean over rows; it is there as often as it has rows.
    """
    given = torch.atleast_1d(tensor.detach().cpu())
    if of_means and tensor.dim() == 0 and tensor.is_floating_point():
        given = given.expand(rows)
    return torch.cat([one for one in processes.gathered(given if rows else None) if one is not None]).to(tensor.device)
