"""Load and save models: from a base of any source, for training, with an adapter, as what others load."""

import json
import logging
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
)
from transformers.pytorch_utils import Conv1D

from posttrain.errors import UserError
from posttrain.inspection import first_line
from posttrain.memory import multiplies_bf16

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def precision(wanted: str) -> str:
    """Resolve `auto`: bf16 where the processor multiplies it in hardware, fp32 elsewhere."""
    if wanted != "auto":
        return wanted
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return "bf16" if multiplies_bf16() else "fp32"


def load(
    folder: Path,
    dtype: Any = "auto",
    quantised: str | None = None,
    reward: bool | None = None,
    attention: str | None = None,
) -> PreTrainedModel:
    """The model in `folder`, on the GPU where there is one, in its own dtype unless another is given.

    Args:
        quantised: arithmetic, fp32 or bf16, of weights held in 4 bits (NF4 with double quantisation).
        reward: make it a reward model, whose answer is one score; by default what the folder holds.
        attention: transformers' name of an implementation; by default the one it chooses.

    Raises:
        UserError: the folder holds no model that transformers can read.
    """
    if (folder / "adapter_config.json").exists():
        return _peft(load(folder / "base", dtype, quantised, is_reward(folder)), folder)
    logging.getLogger("transformers").setLevel(logging.ERROR)
    reward = is_reward(folder) if reward is None else reward
    options = {"dtype": dtype, "use_safetensors": True, "trust_remote_code": False} | (
        {"num_labels": 1} if reward else {}
    )
    if attention:
        options["attn_implementation"] = attention
    if quantised:
        options |= {"quantization_config": nf4(quantised, reward), "device_map": {"": DEVICE}}
    family = AutoModelForSequenceClassification if reward else AutoModelForCausalLM
    try:
        model = family.from_pretrained(folder, **options)
    except Exception as error:  # whatever a broken folder makes transformers raise
        if "memory" in str(error):
            raise
        raise UserError(f"{folder}: not a model that can be loaded: {first_line(error)}") from None
    if reward and not is_reward(folder):  # it looks for the last token that is no padding
        model.config.get_text_config().pad_token_id = tokenizer(folder).pad_token_id
    return _in_one_form(model) if quantised else model.to(DEVICE)


def _in_one_form(model: PreTrainedModel) -> PreTrainedModel:
    """Keep 4-bit weights as they were trained against.

    Where a processor multiplies bf16, bitsandbytes packs them anew for inference: their constants are rounded, and matrices of
    less than 64 columns are refused.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    return model


def dequantised(folder: Path, arithmetic: str, reward: bool) -> PreTrainedModel:
    """The model in `folder` with the weights that it has in 4 bits, as its architecture's own layers.

    bitsandbytes turns the matrices of GPT-2's kind, (inputs, outputs), over before it packs them, and leaves them so.
    """
    model = load(folder, quantised=arithmetic, reward=reward).dequantize()
    with torch.device("meta"):
        original = type(model)(model.config)
    for name, layer in original.named_modules():
        if isinstance(layer, Conv1D) and isinstance(linear := model.get_submodule(name), torch.nn.Linear):
            turned = Conv1D(linear.out_features, linear.in_features)
            turned.weight = torch.nn.Parameter(linear.weight.detach().T.contiguous())
            turned.bias = linear.bias
            model.set_submodule(name, turned)
    return model


def nf4(arithmetic: str, reward: bool) -> Any:
    """QLoRA's quantisation (Dettmers et al. 2023): 4-bit normal floats, their constants quantised again."""
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16 if arithmetic == "bf16" else torch.float32,
        llm_int8_skip_modules=["score"] if reward else None,
    )


def is_reward(folder: Path) -> bool:
    """Whether what lies in `folder` scores an answer instead of writing one."""
    file = folder / "adapter_config.json"
    if file.exists():
        return json.loads(file.read_text())["task_type"] == "SEQ_CLS"
    file = folder / "config.json"
    names = json.loads(file.read_text()).get("architectures") if file.exists() else None
    return "ForSequenceClassification" in str(names)


def tokenizer(folder: Path) -> Any:
    """The tokenizer in `folder`, with a pad token.

    Raises:
        UserError: there is none, or it has no end-of-sequence token.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # as above
        raise UserError(f"{folder}: no tokenizer that can be loaded: {first_line(error)}") from None
    if tokenizer.eos_token is None:
        raise UserError(f"{folder}: the tokenizer has no eos_token, so a model cannot learn to stop; set one")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    return tokenizer


def with_adapter(parent: Path, trained: Path, quantised: str | None = None) -> Any:
    """The parent with what training added: a PEFT model, or the trained weights themselves."""
    if not (trained / "adapter_config.json").exists():
        return load(trained)
    return _peft(load(parent, quantised=quantised, reward=is_reward(trained)), trained)


def _peft(model: PreTrainedModel, folder: Path) -> Any:
    from peft import PeftModel

    from posttrain import adapters  # noqa: F401  (makes the bottleneck adapter one of PEFT's methods)

    return PeftModel.from_pretrained(model, folder, torch_device=DEVICE)


def save(model: PreTrainedModel, tokenizer: Any, folder: Path) -> None:
    """Write safetensors, tokenizer, chat template and generation config."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    for file in folder.iterdir():
        file.chmod(0o644)
