"""Load and save models: from a base of any source, for training, with an adapter, as what others load."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMultimodalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
)
from transformers.pytorch_utils import Conv1D

from posttrain.compat.transformers_internals import keep_4_bit_layout
from posttrain.methods import METHODS, reads_weights
from posttrain.models import frozen_update
from posttrain.models.base_inspection import first_line
from posttrain.models.machine import multiplies_bf16
from posttrain.models.out_of_memory import is_out_of_memory
from posttrain.models.processors import has_processor, processor
from posttrain.models.shapes import read_model
from posttrain.runtime import processes
from posttrain.runtime.errors import UserError

CLASSES = "labels.json"  # beside the adapter of a classifier, whose config.json PEFT does not save
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def precision(setting: str) -> str:
    """Resolve `auto`: bf16 where the processor multiplies it in hardware, fp32 elsewhere."""
    if setting != "auto":
        return setting
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return "bf16" if multiplies_bf16() else "fp32"


def load(
    folder: Path,
    dtype: Any = "auto",
    quantised: str | None = None,
    reward: bool | None = None,
    attention: str | None = None,
    arithmetic: str = "auto",
    apart: bool = False,
    device: str | None = None,
    classes: Sequence[str] = (),
) -> PreTrainedModel:
    """The model in `folder`, in its own dtype unless another is given; of float16, in float32. `processor` is what reads media for it.

    It is on this process's GPU, or spread over all GPUs that the process sees, see `processes.uses_all_gpus`.

    Args:
        quantised: arithmetic, fp32 or bf16, of weights held in 4 bits (NF4 with double quantisation).
        reward: make it a model that scores a sequence instead of writing: a reward model, whose answer is one score, or a classifier;
            by default what the folder holds.
        attention: transformers' name of an implementation; by default the one it chooses.
        arithmetic: of the matrix products when the model scores or answers, auto, fp32 or bf16; see `scoring.autocast`.
        apart: in bf16 arithmetic, hold what a merged model of a bfloat16 base has learnt beside the base's weights, see
            `frozen_update`.
        device: where it is to be instead.
        classes: the labels of a classifier that is made of a language model.

    Raises:
        UserError: the folder holds no model that transformers can read.
    """
    if (folder / "adapter_config.json").exists():
        reward = is_reward(folder)
        return add_adapter(
            load(folder / "base", dtype, quantised, reward, attention, arithmetic, apart, device), folder
        )
    logging.getLogger("transformers").setLevel(logging.ERROR)
    whole = torch.cuda.device_count() < 2 or not processes.uses_all_gpus()
    torch.set_float32_matmul_precision("highest")  # NVIDIA's containers round products of float32 to 10 bits otherwise
    reward = is_reward(folder) if reward is None else reward
    if dtype == "auto" and dtype_of(folder) == "float16":
        dtype = torch.float32
    options = {"dtype": dtype, "use_safetensors": True, "trust_remote_code": False}
    if reward and not is_reward(folder):
        options |= {"num_labels": len(classes) or 1}
    if attention:
        options["attn_implementation"] = attention
    if quantised:
        options |= {"quantization_config": nf4(quantised, reward), "device_map": {"": DEVICE} if whole else "auto"}
    model = _from_pretrained(folder, reward, options)
    if reward and not is_reward(folder):  # it looks for the last token that is not padding
        model.config.get_text_config().pad_token_id = tokenizer(folder).pad_token_id
        if classes:
            model.config.id2label = dict(enumerate(classes))
            model.config.label2id = {label: number for number, label in enumerate(classes)}
    model.arithmetic, model.processor = precision(arithmetic), processor(folder)
    if apart and model.arithmetic == "bf16" and (folder / frozen_update.FILE).exists():
        frozen_update.hold_apart(model, folder)
    if quantised:
        keep_4_bit_layout(model)
        return model
    return model.to(device or DEVICE) if whole or device else spread(model)


def for_inference(folder: Path, precision: str) -> PreTrainedModel:
    """The model in `folder`, to score and to generate in float32 throughout, or in bf16 arithmetic on the weights' own type."""
    if precision == "fp32":
        return load(folder, torch.float32, arithmetic="fp32").eval()
    return load(folder, arithmetic="bf16", apart=True).eval()


def _from_pretrained(folder: Path, reward: bool, options: dict[str, Any]) -> PreTrainedModel:
    family = AutoModelForSequenceClassification if reward else _language_model(folder)
    try:
        return family.from_pretrained(folder, **options)
    except Exception as error:  # whatever a broken folder makes transformers raise
        if is_out_of_memory(error):
            raise
        raise UserError(
            "unreadable-model", f"{folder}", f"not a model that can be loaded: {first_line(error)}"
        ) from None


def _language_model(folder: Path) -> Any:
    """transformers' class for a model that answers in words: of text alone, or with a processor of what it sees or hears."""
    return AutoModelForMultimodalLM if has_processor(folder) else AutoModelForCausalLM


def spread(model: PreTrainedModel) -> PreTrainedModel:
    """A model with its layers on all GPUs that this process sees, one after the other; they work in turn."""
    from accelerate import dispatch_model, infer_auto_device_map
    from accelerate.utils import get_balanced_memory

    whole = {"no_split_module_classes": sorted(model._no_split_modules or [])}
    places = infer_auto_device_map(model, get_balanced_memory(model, **whole), **whole)
    return dispatch_model(model, places, force_hooks=True)


def roomy_device(folder: Path) -> str:
    """The GPU where the weights in `folder` fit into its free memory in float32, with a quarter to spare; else the CPU."""
    if DEVICE == "cpu":
        return DEVICE
    torch.cuda.empty_cache()
    needed = 4 * read_model(folder / "base" if (folder / "base").is_dir() else folder).parameters
    return DEVICE if 1.25 * needed < torch.cuda.mem_get_info()[0] else "cpu"


def dtype_of(folder: Path) -> str | None:
    """The type in which transformers loads what lies in `folder`: float32, bfloat16, float16; None for no model."""
    file = folder / "config.json"
    config = json.loads(file.read_text()) if file.exists() else {}
    tables = (config, config.get("text_config") or {})
    found = [table[key] for table in tables for key in ("dtype", "torch_dtype") if isinstance(table.get(key), str)]
    return (found or [_stored_dtype(folder)])[0]


def _stored_dtype(folder: Path) -> str | None:
    """The type of the weights in the files, the narrower where there are several."""
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as tensors:
            kinds = {tensors.get_slice(key).get_dtype() for key in tensors.keys()}  # noqa: SIM118 (a file is no mapping)
        for kind, name in (("BF16", "bfloat16"), ("F16", "float16"), ("F32", "float32")):
            if kind in kinds:
                return name
    return None


def parent(
    folder: Path,
    spec: dict,
    reward: bool | None = None,
    attention: str | None = None,
    device: str | None = None,
    classes: Sequence[str] = (),
) -> PreTrainedModel:
    """The model that a run starts from, as it is held while the run trains; the reference of the run is held alike.

    In float32 where all its weights are trained or the arithmetic is float32; in 4 bits for qlora; otherwise in its own dtype, and
    what a merged model of a bfloat16 base has learnt apart.

    Args:
        spec: the run's; of it `method`, `precision` and `peft_args`.
        device: where it is to be, in place of `DEVICE`.
        classes: as in `load`.
    """
    arithmetic, method = precision(spec["precision"]), METHODS[spec["method"]]
    whole = method.full or arithmetic == "fp32"
    return load(
        folder,
        torch.float32 if whole else "auto",
        arithmetic if method.four_bit else None,
        reward,
        attention,
        arithmetic,
        apart=not whole and not method.four_bit and not reads_weights(spec["method"], spec.get("peft_args", {})),
        device=device,
        classes=classes,
    )


def dequantised(model: PreTrainedModel) -> PreTrainedModel:
    """A model in 4 bits with the weights that it has there, as its architecture's own layers.

    bitsandbytes turns the matrices of GPT-2's kind, (inputs, outputs), over before it packs them, and leaves them so.
    """
    model = model.dequantize()
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
    """Whether what lies in `folder` scores a sequence instead of writing one: a reward model, or a classifier."""
    file = folder / "adapter_config.json"
    if file.exists():
        return json.loads(file.read_text())["task_type"] == "SEQ_CLS"
    file = folder / "config.json"
    names = json.loads(file.read_text()).get("architectures") if file.exists() else None
    return "ForSequenceClassification" in str(names)


def classes(folder: Path) -> list[str]:
    """The labels of the classifier in `folder`, or of the adapter of one; none of another model."""
    file = folder / CLASSES
    if file.exists():
        return json.loads(file.read_text())
    file = folder / "config.json"
    if not file.exists() or not is_reward(folder):
        return []
    names = json.loads(file.read_text()).get("id2label") or {}
    return [names[key] for key in sorted(names, key=int)] if len(names) > 1 else []


def head(folder: Path) -> torch.Tensor:
    """The weight (classes, d) with which a reward model or a classifier in `folder`, or the adapter of one, scores."""
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            for key in file.keys():  # noqa: SIM118 (a file is no mapping)
                if key.endswith("score.weight"):
                    return file.get_tensor(key)
    raise UserError("wrong-reward-model", f"{folder}", "it has no score, so it is not a reward model")


def tokenizer(folder: Path) -> Any:
    """The tokenizer in `folder`, with a pad token.

    Raises:
        UserError: there is none, or it has no end-of-sequence token.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # as above
        raise UserError(
            "unreadable-model", f"{folder}", f"no tokenizer that can be loaded: {first_line(error)}"
        ) from None
    if tokenizer.eos_token is None:
        raise UserError(
            "no-eos-token", f"{folder}", "the tokenizer has no eos_token, so a model cannot learn to stop", "set one"
        )
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    return tokenizer


def with_adapter(parent: Path, trained: Path, quantised: str | None = None, dtype: Any = "auto") -> Any:
    """The parent with what training added: a PEFT model, or the trained weights themselves."""
    if not (trained / "adapter_config.json").exists():
        return load(trained, dtype)
    return add_adapter(load(parent, dtype, quantised, is_reward(trained), classes=classes(trained)), trained)


def add_adapter(model: PreTrainedModel, folder: Path) -> Any:
    """The PEFT model of a parent and the adapter in `folder`."""
    from peft import PeftModel

    from posttrain.models import bottleneck  # noqa: F401  (makes the bottleneck adapter one of PEFT's methods)

    return PeftModel.from_pretrained(model, folder, torch_device=DEVICE)


def save(model: PreTrainedModel, tokenizer: Any, folder: Path) -> None:
    """Write safetensors, tokenizer, chat template and generation config."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    for file in folder.iterdir():
        file.chmod(0o644)
