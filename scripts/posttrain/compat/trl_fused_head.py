"""The result of TRL's fused LM head, which SFTTrainer, DPOTrainer and KTOTrainer ask a model for by `fused_lm_head=True`.

Checked with TRL 1.16.0: those trainers replace the forward pass of a causal language model by one that returns this result.
It can go once TRL computes logits of trained positions only.
"""

from typing import Any

import torch

CHECKED = {"trl": "1.16.0"}


def fused_output(log_probs: torch.Tensor, is_top1: torch.Tensor, trained: torch.Tensor) -> Any:
    """TRL's result of a fused LM head.

    Entropy and mean logits, which only feed TRL's log, are 0.

    Args:
        log_probs: of the labels at the trained positions (n,).
        is_top1: whether each of these labels is the most likely token (n,).
        trained: which positions are trained (rows, length - 1).
    """
    from trl.trainer.utils import FusedCausalLMOutput  # takes seconds that scoring does not need

    zeros = log_probs.new_zeros(trained.shape)
    return FusedCausalLMOutput(
        loss=-log_probs.mean(),
        log_probs=zeros.masked_scatter(trained, log_probs),
        entropy=zeros,
        mean_logits=zeros,
        is_top1=torch.zeros_like(trained).masked_scatter(trained, is_top1),
        label_mask=trained,
    )
