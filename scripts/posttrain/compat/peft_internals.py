"""Parts of PEFT that are not of its public interface.

Checked with PEFT 0.21.2.
"""

from typing import Any

import torch
from peft.utils.constants import TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING
from peft.utils.other import TrainableTokensWrapper

CHECKED = {"peft": "0.21.2"}
ALLOCATOR_STATE = ("ipt", "exp_avg_ipt", "exp_avg_unc")  # AdaLoRA's importance of each parameter, and its averages


def knows_ia3_targets(model_type: str) -> bool:
    """Whether PEFT knows where IA3 goes in an architecture; it has no function that tells."""
    return model_type in TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING


def give_token_wrapper_a_bias() -> None:
    """Let PEFT's wrapper of trained token rows show the bias of the head that it wraps.

    The wrapper shows only `weight`, and TRL's fused head and ours read both. It can go once PEFT's wrapper has the property.
    """
    TrainableTokensWrapper.bias = property(_bias)


def _bias(self: TrainableTokensWrapper) -> torch.Tensor | None:
    return self.original_module.bias


def allocator_state(tuner: Any) -> dict[str, Any]:
    """What AdaLoRA's allocator of ranks has learnt; PEFT saves none of it."""
    return {name: getattr(tuner.rankallocator, name) for name in ALLOCATOR_STATE}


def set_allocator_state(tuner: Any, state: dict[str, Any]) -> None:
    """Let AdaLoRA's allocator of ranks continue from a saved state."""
    for name in ALLOCATOR_STATE:
        setattr(tuner.rankallocator, name, state[name])
