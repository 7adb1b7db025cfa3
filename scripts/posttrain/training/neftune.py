"""NEFTune (Jain et al. 2023): uniform noise on the embeddings in training, of alpha / sqrt(length x width) at most.

The length is that of each example. Transformers' own hook takes the batch's: a short row gets the noise of the longest beside it, and
packed rows next to none.
"""

from typing import Any

import torch


def add(model: Any, alpha: float) -> None:
    """Let a causal language model (not its PEFT wrapper) add noise wherever it is in training.

    The noise is drawn from torch's own generator, whose state is a part of each checkpoint.
    """
    lengths: list[torch.Tensor | None] = [None]

    def read(module: Any, args: Any, given: dict) -> None:
        lengths[0] = example_lengths(given.get("attention_mask"), given.get("position_ids"))

    def noisy(module: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
        if not module.training:
            return output
        length = output.shape[1] if lengths[0] is None else lengths[0][..., None]
        bound = alpha * torch.as_tensor(length * output.shape[-1], device=output.device).rsqrt()
        return output + ((2 * torch.rand_like(output) - 1) * bound).to(output.dtype)

    model.base_model.register_forward_pre_hook(read, with_kwargs=True)
    model.get_input_embeddings().register_forward_hook(noisy)
    model.is_noisy = True  # rows that begin alike have noise of their own, so that their beginning is not computed once


def example_lengths(mask: torch.Tensor | None, positions: torch.Tensor | None) -> torch.Tensor | None:
    """The length of the example that each token belongs to, (rows, width) or (rows, 1); None where nothing tells it.

    >>> example_lengths(None, torch.tensor([[0, 1, 2, 0, 1, 0]])).tolist()
    [[3, 3, 3, 2, 2, 1]]
    """
    if mask is not None and mask.dim() == 2:
        return mask.sum(1, keepdim=True)
    if positions is None:
        return None
    examples = (positions.diff(prepend=positions[:, :1] - 1) != 1).cumsum(1)
    counts = torch.zeros(len(examples), int(examples.max()) + 1, dtype=torch.long, device=examples.device)
    return counts.scatter_add_(1, examples, torch.ones_like(examples)).gather(1, examples)
