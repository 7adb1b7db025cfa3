"""Write a trained model as one GGUF file, for llama.cpp and what is built on it, one tensor at a time.

Full and half precision and 8 bits are written here, by the package `gguf`; fewer bits by llama.cpp's own quantiser. The same model
gives the same bytes.
"""

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posttrain.export import gguf_families, gguf_vocabulary
from posttrain.export.gguf_families import FAMILIES, Family, refusal
from posttrain.runtime.errors import UserError

if TYPE_CHECKING:
    from numpy import ndarray

QUANTISER = "llama-quantize"
WRITTEN = ("F32", "F16", "Q8_0")
BY_LLAMA_CPP = ("Q4_K_M", "Q5_K_M", "Q6_K")
TIED = "lm_head.weight"


def write(model: Path, target: Path, quantisation: str, name: str = "model") -> Path:
    """Write the model in the folder `model` as `target`/NAME.gguf; returns the file.

    Args:
        model: a folder of transformers with whole weights, as the stage `merge` makes it.
        target: a folder that is there.
        quantisation: llama.cpp's name, one of `WRITTEN` or of `BY_LLAMA_CPP`.
        name: of the model, also in the file.

    Raises:
        UserError: llama.cpp would not compute the model that was trained, the disk has too little room, or `llama-quantize` is
            needed and not there.
    """
    file = target / f"{name}.gguf"
    if quantisation in WRITTEN:
        _write(model, file, quantisation, name)
        return file
    program = quantiser(quantisation)
    with tempfile.TemporaryDirectory(prefix=".gguf.", dir=target) as scratch:
        whole = Path(scratch, "f16.gguf")
        _write(model, whole, "F16", name)
        threads = str(len(os.sched_getaffinity(0)))
        ran = subprocess.run(
            [program, whole, file, quantisation, threads], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
    if ran.returncode:
        file.unlink(missing_ok=True)
        lines = ran.stdout.strip().splitlines() or [f"exit status {ran.returncode}"]
        raise UserError(
            "program-failed", f"gguf-{quantisation.lower()}", f"{QUANTISER} failed: {lines[-1]}", "free disk or memory"
        )
    return file


def quantiser(quantisation: str) -> str:
    """Where llama.cpp's quantiser is.

    Raises:
        UserError: it is not on PATH.
    """
    found = shutil.which(QUANTISER)
    if found is None:
        raise UserError(
            "missing-package",
            f"gguf-{quantisation.lower()}",
            f"{QUANTISER}, which makes such a file, is not on PATH",
            "install llama.cpp (`brew install llama.cpp`, `conda install -c conda-forge llama.cpp`, or a release of its project), "
            "or take gguf-q8_0, which needs nothing",
        )
    return found


def _write(model: Path, file: Path, quantisation: str, name: str) -> None:
    from gguf import GGML_QUANT_VERSION, GGUFType, GGUFWriter, LlamaFileType
    from transformers import AutoConfig

    from posttrain.data import conversations
    from posttrain.models import loading

    place = f"gguf-{quantisation.lower()}"
    if (model / "adapter_config.json").exists():
        raise UserError(
            "unsupported-export", place, "what its method trains cannot be merged into the weights", "take adapter"
        )
    config = AutoConfig.from_pretrained(model, trust_remote_code=False).to_dict()
    problem = refusal(config)
    if problem:
        raise UserError("unsupported-export", place, problem, "export it as bf16")
    family = FAMILIES[config["model_type"]]
    kind = {"F32": LlamaFileType.ALL_F32, "F16": LlamaFileType.MOSTLY_F16, "Q8_0": LlamaFileType.MOSTLY_Q8_0}[
        quantisation
    ]
    writer = GGUFWriter(None, family.architecture)
    writer.add_type(GGUFType.MODEL)
    writer.add_name(name)
    writer.add_file_type(kind)
    writer.add_quantization_version(GGML_QUANT_VERSION)
    gguf_families.metadata(writer, config)
    tokenizer = loading.tokenizer(model)
    gguf_vocabulary.write(writer, tokenizer, config["vocab_size"], conversations.stops(model, tokenizer), place)
    tensors = _Tensors(model, config, family, quantisation, place)
    bytes_ = sum(tensors.announce(writer, tensor) for tensor in tensors.names)
    free = shutil.disk_usage(file.parent).free
    if bytes_ > free:
        raise UserError(
            "no-room",
            place,
            f"it needs {bytes_:,} bytes of disk, and {free:,} are free",
            "free some, or take another disk",
        )
    try:
        writer.write_header_to_file(file)
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for tensor in tensors.names:
            writer.write_tensor_data(tensors.data(tensor))
        writer.close()
    except BaseException:
        file.unlink(missing_ok=True)
        raise


class _Tensors:
    """A model's tensors by llama.cpp's names, each read when it is asked for."""

    def __init__(self, model: Path, config: dict[str, Any], family: Family, quantisation: str, place: str) -> None:
        from gguf import MODEL_ARCH_NAMES, get_tensor_name_map
        from safetensors import safe_open

        self._config, self._family, self._quantisation, self._place = config, family, quantisation, place
        self._factors = gguf_families.rope_factors(config)
        architecture = next(key for key, name in MODEL_ARCH_NAMES.items() if name == family.architecture)
        known = get_tensor_name_map(architecture, config["num_hidden_layers"])
        self._sources: dict[str, tuple[Any, str]] = {}
        for part in sorted(model.glob("*.safetensors")):
            opened = safe_open(part, "pt")
            for source in sorted(opened.keys()):
                if source == TIED and config["tie_word_embeddings"]:
                    continue
                self._sources[self._named(known.get_name(source, (".weight", ".bias")), source)] = (opened, source)
        self.names = sorted([*self._sources, *(["rope_freqs.weight"] if self._factors else [])], key=_order)

    def _named(self, name: str | None, source: str) -> str:
        layer = re.sub(r"blk\.\d+\.", "", name or "")
        if name is None or (name.endswith(".bias") and layer.removesuffix(".bias") not in self._family.biases):
            raise UserError(
                "unsupported-export",
                self._place,
                f"llama.cpp has no place for its weight {source} in a model of the family {self._config['model_type']}",
                "export it as bf16",
            )
        return name

    def announce(self, writer: Any, name: str) -> int:
        """Tell the writer of a tensor that will follow; returns its bytes in the file."""
        import numpy as np
        from gguf import quant_shape_to_byte_shape

        shape, kind = self._shape(name), self._kind(name)
        stored = quant_shape_to_byte_shape(shape, kind) if kind.name == "Q8_0" else shape
        dtype = np.dtype({"F32": np.float32, "F16": np.float16, "Q8_0": np.uint8}[kind.name])
        bytes_ = int(np.prod(stored)) * dtype.itemsize
        writer.add_tensor_info(name, stored, dtype, bytes_, raw_dtype=kind)
        return bytes_

    def data(self, name: str) -> "ndarray":
        """A tensor as llama.cpp computes with it, in the type of the file.

        Raises:
            UserError: a weight is not a number, or too large for the type.
        """
        import numpy as np
        from gguf import quants

        with np.errstate(over="ignore"):
            values = quants.quantize(self._values(name), self._kind(name))
        numbers = values if values.dtype != np.uint8 else values.reshape(-1, 34)[:, :2].copy().view(np.float16)
        if not np.isfinite(numbers).all():
            raise UserError(
                "not-finite",
                self._place,
                f"the weight {name} has values that are not finite, or larger than the {np.finfo(np.float16).max:,.0f} of 16 bits",
                "export it as bf16",
            )
        return values

    def _values(self, name: str) -> "ndarray":
        import numpy as np
        import torch

        if name not in self._sources:
            return np.array(self._factors, np.float32)
        opened, source = self._sources[name]
        values = opened.get_tensor(source).to(torch.float32).numpy()
        if self._family.shifted_norms and name.endswith("norm.weight"):
            return values + np.float32(1)
        heads = {"attn_q": "num_attention_heads", "attn_k": "num_key_value_heads"}.get(name.split(".")[-2])
        return pairs(values, self._config[heads]) if heads and self._family.pairs else values

    def _shape(self, name: str) -> tuple[int, ...]:
        if name not in self._sources:
            return (len(self._factors),)
        opened, source = self._sources[name]
        return tuple(opened.get_slice(source).get_shape())

    def _kind(self, name: str) -> Any:
        """Vectors and norms are in 32 bits; a matrix whose rows are no whole blocks of 32 is in 16 instead of 8."""
        from gguf import GGMLQuantizationType as Kind

        shape = self._shape(name)
        if len(shape) < 2 or self._quantisation == "F32":
            return Kind.F32
        return Kind.Q8_0 if self._quantisation == "Q8_0" and shape[-1] % 32 == 0 else Kind.F16


def pairs(values: "ndarray", heads: int) -> "ndarray":
    """Rows of q or k such that the two numbers that are rotated together are neighbours, and not half a head apart."""
    halves = values.reshape(heads, 2, len(values) // heads // 2, *values.shape[1:])
    return halves.swapaxes(1, 2).reshape(values.shape)


def _order(name: str) -> tuple:
    """What is not of a layer first, then layer by layer."""
    layer = re.match(r"blk\.(\d+)\.", name)
    return (int(layer[1]) if layer else -1, name)
