"""Load and save models: from a base of any source, for training, with an adapter, as what others load."""

import logging
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from posttrain.errors import UserError


def precision(wanted: str) -> str:
    """Resolve `auto`: bf16 where the processor multiplies it in hardware, fp32 elsewhere."""
    if wanted != "auto":
        return wanted
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    flags = Path("/proc/cpuinfo")
    return "bf16" if flags.exists() and "avx512_bf16" in flags.read_text() else "fp32"


def load(folder: Path, dtype: Any = "auto") -> PreTrainedModel:
    """The model in `folder`, on the GPU where there is one, in its own dtype unless another is given.

    Raises:
        UserError: the folder holds no model that transformers can read.
    """
    logging.getLogger("transformers").setLevel(logging.ERROR)
    try:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, use_safetensors=True)
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}: not a model that can be loaded: {str(error).splitlines()[0]}") from None
    return model.to("cuda" if torch.cuda.is_available() else "cpu")


def tokenizer(folder: Path) -> Any:
    """The tokenizer in `folder`, with a pad token.

    Raises:
        UserError: there is none, or it has no end-of-sequence token.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}: no tokenizer that can be loaded: {str(error).splitlines()[0]}") from None
    if tokenizer.eos_token is None:
        raise UserError(f"{folder}: the tokenizer has no eos_token, so a model cannot learn to stop; set one")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    return tokenizer


def with_adapter(parent: Path, trained: Path) -> Any:
    """The parent with what training added: a PEFT model, or the trained weights themselves."""
    if not (trained / "adapter_config.json").exists():
        return load(trained)
    from peft import PeftModel

    return PeftModel.from_pretrained(load(parent), trained, torch_device="cpu")


def save(model: PreTrainedModel, tokenizer: Any, folder: Path) -> None:
    """Write safetensors, tokenizer, chat template and generation config."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    for file in folder.iterdir():
        file.chmod(0o644)
