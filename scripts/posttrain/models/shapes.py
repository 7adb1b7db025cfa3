"""The shapes of a model's parameters, and what follows from them: read from the headers of its files, no weight is loaded."""

import math
import re
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import safe_open

from posttrain.models.parts import part_of
from posttrain.runtime.atomic import read_json
from posttrain.runtime.errors import UserError


class Model(NamedTuple):
    """A model as its files describe it."""

    config: dict[str, Any]
    """config.json; of a model of several parts, its text part's"""
    shapes: dict[str, tuple[int, ...]]
    """of each parameter"""
    bytes: int
    """of all parameters, as they are stored"""
    layers: int
    hidden: int
    intermediate: int
    """the widest matrix of a layer"""
    vocabulary: int
    update: int = 0
    """bytes of the low-rank update of a merged model whose base is in bfloat16, see frozen_update.py"""

    @property
    def embeddings(self) -> int:
        """How many tokens have an embedding; a table of positions may be larger."""
        return self.config.get("vocab_size") or self.vocabulary

    @property
    def parameters(self) -> int:
        """Their number."""
        return sum(map(math.prod, self.shapes.values()))

    @property
    def matrices(self) -> dict[str, tuple[int, ...]]:
        """The modules of the layers that multiply by a matrix, and its shape; what is `all-linear` to PEFT."""
        weights = {name.removesuffix(".weight"): shape for name, shape in self.shapes.items() if len(shape) == 2}
        return {
            name: shape
            for name, shape in weights.items()
            if re.search(r"\.\d+\.", name) or part_of(name) == "projector"
        }

    @property
    def modules(self) -> set[str]:
        """The modules that have a weight."""
        return {name.removesuffix(".weight") for name in self.shapes if name.endswith(".weight")}

    @property
    def tied(self) -> bool:
        """Whether the LM head is the embedding: no second matrix as large lies outside of the layers."""
        outer = [shape for name, shape in self.shapes.items() if len(shape) == 2 and not re.search(r"\.\d+\.", name)]
        return sum(max(shape) == self.vocabulary for shape in outer) < 2


def read_model(folder: Path) -> Model:
    """Read config.json and the headers of the safetensors files in `folder`.

    Raises:
        UserError: there are no such files.
    """
    tensors: dict[str, Tensor] = {}
    for file in weight_files(folder):
        tensors |= _tensors(file)
    file = folder / "update.safetensors"
    update = sum(tensor.bytes for tensor in _tensors(file).values()) if file.exists() else 0
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    return described(
        read_json(folder / "config.json"), shapes, sum(tensor.bytes for tensor in tensors.values()), update
    )


def described(config: dict[str, Any], shapes: dict[str, tuple[int, ...]], size: int, update: int = 0) -> Model:
    """A model, from its config.json, the shapes of its parameters under their names in its files, and their bytes."""
    numbered: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, shape in shapes.items():
        found = re.match(r"(.*?)\.?(\d+)\.", name)
        if found:
            numbered.setdefault(found[1], {})[name] = shape
    stack, blocks = max(numbered.items(), key=lambda item: sum(map(math.prod, item[1].values())))
    layers = {re.match(r"\.?(\d+)", name.removeprefix(stack))[1] for name in blocks}
    embedding = max((shape for name, shape in shapes.items() if len(shape) == 2 and name not in blocks), key=max)
    widest = max(max(shape) for shape in blocks.values() if len(shape) == 2)
    text = config.get("text_config", config)
    return Model(text, shapes, size, len(layers), min(embedding), widest, max(embedding), update)


def weight_files(folder: Path) -> list[Path]:
    index = folder / "model.safetensors.index.json"
    files = {"model.safetensors"} if not index.exists() else set(read_json(index)["weight_map"].values())
    missing = [name for name in sorted(files) if not (folder / name).exists()]
    if missing:
        raise UserError(
            "missing-file", f"{folder}", f"there is no {missing[0]}", "put the model's weights there as safetensors"
        )
    return [folder / name for name in sorted(files)]


class Tensor(NamedTuple):
    """A tensor as a safetensors file describes it."""

    shape: tuple[int, ...]
    bytes: int


def _tensors(file: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file by their names; none is read."""
    with safe_open(file, "np") as tensors:
        slices = {name: tensors.get_slice(name) for name in tensors.keys()}  # noqa: SIM118 (a file is not a mapping)
    found = {}
    for name, part in slices.items():
        shape, bits = (
            tuple(part.get_shape()),
            re.search(r"\d+", part.get_dtype()),
        )  # such as BF16 and F8_E4M3; BOOL has 8
        found[name] = Tensor(shape, math.prod(shape) * (int(bits[0]) if bits else 8) // 8)
    return found
