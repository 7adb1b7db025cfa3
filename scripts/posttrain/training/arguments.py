"""From a run's spec to the arguments that all of TRL's configurations share."""

from pathlib import Path
from typing import Any

import torch
from transformers.utils import is_flash_attn_2_available, is_liger_kernel_available

from posttrain.methods import METHODS
from posttrain.models import loading, out_of_memory
from posttrain.objectives import OBJECTIVES
from posttrain.runtime import processes
from posttrain.training import early_stopping, strategies


def trainer_arguments(spec: dict, folder: Path) -> dict[str, Any]:
    """Fields of TRL's configurations, by their names; the spec's `trainer_args` come last.

    Args:
        folder: where the trainer writes its checkpoints.
    """
    return {
        "output_dir": str(folder),
        "seed": spec["seed"],
        "learning_rate": spec["learning_rate"],
        "num_train_epochs": 1,  # row_order has all of them
        "train_sampling_strategy": "sequential",
        "per_device_train_batch_size": spec["batch_size"] // spec["accumulation"] // processes.count(),
        "gradient_accumulation_steps": spec["accumulation"],
        **({"per_device_eval_batch_size": out_of_memory.micro_batch(spec)} if early_stopping.plan(spec) else {}),
        "warmup_steps": warmup_share(spec["warmup"]),
        "lr_scheduler_type": "constant_with_warmup" if spec["schedule"] == "constant" else spec["schedule"],
        "weight_decay": spec["weight_decay"],
        "max_grad_norm": spec["max_grad_norm"],
        "bf16": loading.precision(spec["precision"]) == "bf16",
        "gradient_checkpointing": spec["gradient_checkpointing"],
        "use_cpu": not torch.cuda.is_available(),
        "dataloader_pin_memory": torch.cuda.is_available(),
        "logging_steps": 1,
        "logging_nan_inf_filter": False,  # it would replace a loss that is not finite by an earlier one
        "save_strategy": "no",  # the callbacks decide
        "report_to": [],
        "disable_tqdm": True,
        **({"optim": "paged_adamw_8bit"} if METHODS[spec["method"]].four_bit else {}),
        **fast_kernels(spec),
        **strategies.arguments(spec),
        **spec.get("trainer_args", {}),
    }


def uses_flash_attention(spec: dict) -> bool:
    """Whether a run trains with Flash Attention: in bf16 on a GPU, where it is installed and changes no result."""
    able = torch.cuda.is_available() and is_flash_attn_2_available() and loading.precision(spec["precision"]) == "bf16"
    return able and OBJECTIVES[spec["objective"]].fast_kernels and not METHODS[spec["method"]].virtual_tokens


def fast_kernels(spec: dict) -> dict[str, bool]:
    """What makes training on a GPU faster with the same results, by what is installed; `trainer_args` has the last word.

    Only Flash Attention separates the rows of one sequence, so rows are concatenated without padding only with it. Liger replaces
    the forward pass of the feed-forward block, so it cannot be used where a method wraps that block.
    """
    if not torch.cuda.is_available() or not OBJECTIVES[spec["objective"]].fast_kernels:
        return {}
    liger = is_liger_kernel_available() and not METHODS[spec["method"]].wraps_blocks
    return {"padding_free": uses_flash_attention(spec), "use_liger_kernel": liger}


def warmup_share(share: float) -> float:
    """The share of the steps as transformers reads it, for which 1 is one step."""
    return min(share, 1 - 1e-9)


def steps(rows: int, batch_size: int) -> int:
    """Optimiser steps of one pass over `rows`."""
    return -(-rows // batch_size)
