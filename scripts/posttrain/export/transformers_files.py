"""Exports that transformers writes and loads: safetensors, rounded to another type or quantised, and all that belongs to a model.

Everything is computed on the CPU, and the headers of the files are sorted, so that the same model gives the same bytes.
"""

import importlib.util
import json
import struct
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, TorchAoConfig

from posttrain.exports import Export
from posttrain.models import loading
from posttrain.models.model_files import carry
from posttrain.models.shapes import read_model, weight_files
from posttrain.runtime.errors import UserError

BLOCK = 64  # weights of NF4 with one scale
LARGEST = torch.finfo(torch.float16).max


def write(row: Export, model: Path, folder: Path) -> None:
    """Write a model's weights as an export has them, with its tokenizer, chat template and generation configuration.

    Args:
        row: the export.
        model: the folder of the trained model, in float32.
        folder: the one to fill.

    Raises:
        UserError: a package is missing, or the weights do not fit the type.
    """
    if row.needs and not importlib.util.find_spec(row.needs):
        hint = f"`pip install posttrain[{row.needs}]`" if row.needs == "torchao" else f"`pip install {row.needs}`"
        raise UserError("missing-package", f"{folder}", f"{row.words}: this needs {row.needs}", hint)
    if row.dtype == "float16":
        check_range(model)
    if row.quantiser == "bitsandbytes" and row.bits < 8:
        check_blocks(model)
    exported = loading.load(model, getattr(torch, row.dtype), device="cpu") if row.dtype else quantised(row, model)
    exported.save_pretrained(folder)
    carry(model, folder)
    for file in folder.glob("*.safetensors"):
        sort_header(file)


def quantised(row: Export, model: Path) -> Any:
    """The model with its linear layers quantised; embeddings, norms and the head are in bfloat16."""
    return AutoModelForCausalLM.from_pretrained(
        model,
        quantization_config=configuration(row),
        dtype=torch.bfloat16,
        device_map={"": "cpu"},
        use_safetensors=True,
        trust_remote_code=False,
    )


def configuration(row: Export) -> Any:
    """What transformers is to quantise by."""
    if row.quantiser == "torchao":
        from torchao.quantization import Int8WeightOnlyConfig

        return TorchAoConfig(Int8WeightOnlyConfig())
    return loading.nf4("bf16", reward=False) if row.bits < 8 else BitsAndBytesConfig(load_in_8bit=True)


def check_blocks(model: Path) -> None:
    """Refuse matrices that bitsandbytes does not compute with in 4 bits.

    Raises:
        UserError: naming the first of them.
    """
    for name, shape in read_model(model).matrices.items():
        if shape[1] % BLOCK:
            problem = (
                f"{name} has {shape[1]} inputs, and bitsandbytes computes them on a processor in blocks of {BLOCK}"
            )
            raise UserError("unsupported-export", f"{model.parent.name}: nf4", problem, "export int8 or bf16")


def check_range(model: Path) -> None:
    """Refuse weights that float16 cannot hold.

    Raises:
        UserError: naming the first of them and its largest value.
    """
    for file in weight_files(model):
        with safe_open(file, "pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 (a file is no mapping)
                largest = tensors.get_tensor(name).abs().max().item()
                if not largest <= LARGEST:  # NaN is neither
                    problem = f"{name} has a value of {largest:.3g}, and float16 ends at {LARGEST:.0f}"
                    raise UserError("unsupported-export", f"{model.parent.name}: fp16", problem, "export bf16")


def sort_header(file: Path) -> None:
    """Sort what a safetensors file says of itself: torchao's part is written in another order each time."""
    with file.open("r+b") as out:
        (length,) = struct.unpack("<Q", out.read(8))
        header = json.loads(out.read(length))
        header = {"__metadata__": dict(sorted(header.pop("__metadata__", {}).items()))} | header
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        out.seek(8)
        out.write(text.ljust(length))  # blanks at the end are a part of the format
