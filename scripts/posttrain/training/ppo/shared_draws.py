"""Sampling in several processes with the random numbers that one process would have."""

from typing import Any

import torch
from transformers import LogitsProcessor


class SharedDraws(LogitsProcessor):
    """Draws the tokens of this process's rows of a batch as one process does that has all rows: one after the other, in equal parts.

    As `torch.multinomial` does: the token of the largest p / q, where q is exponentially distributed. Each process draws q for
    every row, so that the generators of all processes stay the same. To be used with `do_sample=False`.
    """

    def __init__(self, accelerator: Any, temperature: float) -> None:
        self.accelerator, self.temperature = accelerator, temperature
        self.shape, self.steps, self.device = (0, 0), 0, accelerator.device

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Of scores (n, vocabulary), numbers whose largest is the token that is drawn."""
        n, vocabulary = scores.shape
        self.shape = (self.accelerator.num_processes * n, vocabulary)
        first = self.accelerator.process_index * n
        return (scores / self.temperature).softmax(-1) / self._draw()[first : first + n]

    def catch_up(self) -> None:
        """Draw what the other processes have drawn for longer completions."""
        mine = torch.tensor([self.steps], device=self.device)
        most = int(self.accelerator.gather(mine).max())
        while self.steps < most:
            self._draw()

    def _draw(self) -> torch.Tensor:
        self.steps += 1
        return torch.empty(self.shape, device=self.device).exponential_()
