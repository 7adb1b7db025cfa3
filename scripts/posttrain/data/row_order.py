"""The order in which rows are trained on, and steps that weigh as much as what is in them.

Batches hold rows of similar lengths, which saves padding, and a step's gradient is a mean over the batch. Without more, a token of
a batch of short rows would move the weights more than one of a batch of long rows; `EvenWeights` takes that away.
"""

import math
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from transformers import TrainerCallback

from posttrain.data.tokens import IGNORED


def row_order(lengths: list[int], batch_size: int, epochs: float, max_steps: int | None, seed: int) -> list[int]:
    """The rows in the order in which they are trained on, all epochs in one list.

    Each epoch is a permutation of its own. Its neighbours are sorted by length and cut into batches, which saves padding,
    and the batches are shuffled; neighbours are a quarter of the rows, but no fewer than 8 batches and no more than 50. What
    is left of an epoch, less than a batch and drawn at random, begins the next one; after the last epoch it is the last batch.
    Nothing here depends on the state of a random generator, so a resumed run sees the same rows.
    """
    n = len(lengths)
    total = max_steps * batch_size if max_steps else max(1, round(n * epochs))
    size = batch_size * min(max(8, n // (4 * batch_size)), 50)
    order: list[int] = []
    rest: list[int] = []
    for epoch in range(math.ceil(total / n)):
        chance = np.random.default_rng([seed, epoch])
        rows = rest + chance.permutation(n)[: total - len(order) - len(rest)].tolist()
        whole = len(rows) - len(rows) % batch_size
        rows, rest = rows[:whole], rows[whole:]
        for start in range(0, whole, size):
            window = sorted(rows[start : start + size], key=lambda row: lengths[row])
            batches = [window[i : i + batch_size] for i in range(0, len(window), batch_size)]
            order += [row for i in chance.permutation(len(batches)) for row in batches[i]]
    return order + rest


def trained_tokens(labels: pa.ChunkedArray) -> list[int]:
    """How many tokens of each row are trained; the first one of a row follows none from which it could be predicted."""
    column = labels.combine_chunks()
    offsets = column.offsets.to_numpy() - column.offsets[0].as_py()
    trained = column.flatten().to_numpy() != IGNORED
    trained[offsets[:-1][np.diff(offsets) > 0]] = False
    before = np.concatenate([[0], np.cumsum(trained)])
    return (before[offsets[1:]] - before[offsets[:-1]]).tolist()


def step_weights(amounts: list[int], batch_size: int) -> np.ndarray:
    """What each step's gradient is multiplied by, (steps,): the step's amount over that of a batch of average rows.

    Args:
        amounts: what each row brings to the mean that a step's gradient is, in the order of training: its trained tokens, or 1
            where the loss is a mean over rows.
    """
    sums = np.add.reduceat(np.array(amounts, float), np.arange(0, len(amounts), batch_size))
    return sums / (batch_size * np.mean(amounts))


class EvenWeights(TrainerCallback):
    """Multiply each step's gradient, after it was clipped, by its `step_weights`: loss and gradient norm stay means in the log.

    So the sum of all steps' gradients is the gradient of the mean over all that is trained, to first order, whatever the
    batches are. Without it a token of the shortest tenth of rows weighs up to ten times one of the longest tenth.
    """

    def __init__(self, amounts: list[int], batch_size: int) -> None:
        self.weights = step_weights(amounts, batch_size)

    def on_train_begin(self, args: Any, state: Any, control: Any, optimizer: Any = None, **_: Any) -> None:
        """Let torch's own optimiser do it, within accelerate's and DeepSpeed's, which clips the gradients itself."""
        while hasattr(optimizer, "optimizer"):
            optimizer = optimizer.optimizer

        def weigh(optimizer: Any, *_: Any) -> None:  # `state` still counts the steps before this one
            weight = float(self.weights[state.global_step])
            if weight != 1:
                parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
                torch._foreach_mul_([parameter.grad for parameter in parameters if parameter.grad is not None], weight)

        optimizer.register_step_pre_hook(weigh)
