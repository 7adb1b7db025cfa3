"""Weights, gradients and optimiser states that several processes share out: FSDP2 of torch, and ZeRO of DeepSpeed.

accelerate and transformers do the work. What is here is what they leave open: their arguments, whether the weights are really
shared out, the LM head that is read and not called, and whole tensors for a file.
"""

from typing import Any

import torch
from transformers import TrainerCallback

from posttrain.runtime.errors import UserError


def fsdp(offload: bool) -> dict[str, Any]:
    """Fields of TRL's configurations for FSDP2: each layer's weights are gathered when it computes, and dropped after it."""
    return {
        "fsdp": True,
        "fsdp_config": {"version": 2, "state_dict_type": "FULL_STATE_DICT", "cpu_offload": offload},
    }


def zero(stage: int, offload: bool) -> dict[str, Any]:
    """Fields of TRL's configurations for ZeRO (Rajbhandari et al. 2020).

    Args:
        stage: 1 shares out the optimiser's states, 2 the gradients as well, 3 the weights as well.
        offload: keep what is shared out in the machine's memory.
    """
    optimization: dict[str, Any] = {"stage": stage, "stage3_param_persistence_threshold": "auto"}
    if offload:
        optimization["offload_optimizer"] = {"device": "cpu"}
    if offload and stage == 3:
        optimization["offload_param"] = {"device": "cpu"}
    by_trainer = ("train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping")
    config = dict.fromkeys(by_trainer, "auto") | {"bf16": {"enabled": "auto"}, "zero_optimization": optimization}
    # torch's optimiser in the place of DeepSpeed's own, which needs a compiler
    return {"deepspeed": config | {"zero_allow_untested_optimizer": True, "zero_force_ds_cpu_optimizer": False}}


def begin(trainer: Any, strategy: str) -> None:
    """Prepare a trainer that was just built, and let it check at its start that the weights are really shared out."""
    plugin = getattr(trainer.accelerator.state, "fsdp_plugin", None)
    if plugin is not None:
        kinds = {type(module).__name__ for module in trainer.model.modules()}
        plugin.transformer_cls_names_to_wrap = sorted(kinds & set(trainer.model._no_split_modules or ()))
    trainer.add_callback(CheckSharding(trainer, strategy))


class CheckSharding(TrainerCallback):
    """Refuse to train where FSDP or DeepSpeed turned out to be plain DDP, of which neither says a word."""

    def __init__(self, trainer: Any, strategy: str) -> None:
        self.trainer, self.strategy = trainer, strategy

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Look at the parameters and the optimiser once they are as they will be trained."""
        model = self.trainer.model
        gather_head(model)


def gather_head(model: Any) -> None:
    """Gather an LM head of its own FSDP unit before each forward pass: a fused head reads its weight and does not call it."""
    from torch.distributed.fsdp import FSDPModule

    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    if isinstance(head, FSDPModule):
        model.register_forward_pre_hook(lambda *_: head.unshard() and None)
