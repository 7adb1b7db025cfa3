"""Sampling in several processes with the random numbers that one process would have."""

from typing import Any

import torch
from transformers import LogitsProcessor

from posttrain.runtime import processes


class SharedDraws(LogitsProcessor):
    """Draws the tokens of this process's rows of a batch, of which each process has as many, as one process would that has them all.

    As `torch.multinomial` does it: the token of the largest p / q, where q is exponentially distributed. Each process draws q for
    every row, so that the generators of all processes stay the same. To be used with `do_sample=False`.
    """

    def __init__(self, temperature: float, device: Any) -> None:
        self.temperature, self.device = temperature, device
        self.shape, self.steps = (0, 0), 0

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Of scores (n, vocabulary), numbers whose largest is the token that is drawn."""
        n, vocabulary = scores.shape
        self.shape = (processes.count() * n, vocabulary)
        first = processes.rank() * n
        return (scores / self.temperature).softmax(-1) / self._draw()[first : first + n]

    def catch_up(self) -> None:
        """Draw what the other processes have drawn for longer completions."""
        most = processes.largest(self.steps)
        while self.steps < most:
            self._draw()

    def _draw(self) -> torch.Tensor:
        self.steps += 1
        return torch.empty(self.shape, device=self.device).exponential_()
