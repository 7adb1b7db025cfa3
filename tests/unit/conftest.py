"""What unit tests share: a small configuration, a random tiny model, and no settings of the user's."""

import contextlib
import copy
import os
from pathlib import Path

import pytest
from conftest import write_rows

VALUES = {
    "bases": {"base": {"source": "path", "path": "base"}},
    "datasets": {
        "chats": {"path": "chats.jsonl", "format": "messages"},
        "pairs": {"path": "pairs.jsonl", "format": "preference", "validation": "held_out.jsonl"},
    },
    "runs": {
        "sft": {"from": "base", "objective": "sft", "data": "chats", "rank": 8},
        "dpo": {"from": "sft", "objective": "dpo", "data": "pairs", "learning_rate": 1e-4},
        "follow": {"from": "sft,rank={rank}", "objective": "dpo", "data": "pairs"},
        "full": {"from": "base", "objective": "sft", "method": "full", "data": "chats"},
    },
    "sweeps": {"rank": {"run": "dpo", "over": {"rank": [4, 16], "beta": [0.1, 0.5]}}},
}

CHATS = [
    ("How many clips did Natalia sell?", "She sold 48 + 24 = 72 clips.\n#### 72"),
    ("What is half of 48?", "48 / 2 = 24, so half of it is 24.\n#### 24"),
    ("Name a fruit, please.", "An apple is a fruit; häufig rot. 😀"),
    ("And another one?", "A pear."),
]


@pytest.fixture(autouse=True)
def no_settings(monkeypatch):
    """Nothing that the user has set, or Snakemake sets, reaches a test."""
    for name in os.environ:
        if name.startswith(("POSTTRAIN", "MLFLOW")):
            monkeypatch.delenv(name)


@pytest.fixture
def configuration():
    """A small valid configuration with changes, such as `{"runs.sft.rank": 4}`; the value `...` takes a key out."""

    def changed(changes: dict | None = None) -> dict:
        values = copy.deepcopy(VALUES)
        for place, value in (changes or {}).items():
            *tables, key = place.split(".")
            table = values
            for name in tables:
                table = table.setdefault(name, {})
            if value is ...:
                del table[key]
            else:
                table[key] = copy.deepcopy(value)
        return values

    return changed


@pytest.fixture
def in_folder(tmp_path, monkeypatch) -> Path:
    """An empty folder to work in, as a project's."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def chats() -> list[dict]:
    """Normalised conversations."""
    return normalised()


@pytest.fixture(scope="session")
def random_tiny_folder(tmp_path_factory) -> Path:
    """A Llama of random weights and its ChatML tokenizer, as `make_base` leaves them."""
    import torch

    import make_base

    torch.set_num_threads(1)  # so small a model only waits for more
    folder = tmp_path_factory.mktemp("random_tiny")
    spec = {"text": {"name": "chats"}, "hidden_size": 32, "layers": 2, "heads": 2, "vocab_size": 384, "seed": 42}
    with contextlib.chdir(folder):
        write_rows(Path("results/data/chats/train.parquet"), normalised())
        make_base.at_random(spec, folder / "model", "random_tiny", Path("results/data/chats/train.parquet"))
    return folder / "model"


@pytest.fixture
def random_tiny_model(random_tiny_folder):
    """The random tiny model, a fresh copy for each test."""
    from posttrain.models import loading

    return loading.load(random_tiny_folder)


@pytest.fixture
def random_tiny_tokenizer(random_tiny_folder):
    """The random tiny model's tokenizer, a fresh copy for each test."""
    from posttrain.models import loading

    return loading.tokenizer(random_tiny_folder)


@pytest.fixture
def random_run(in_folder, configuration, chats, random_tiny_folder, random_tiny_tokenizer):
    """Leave what training leaves of a run on the base, with weights that have moved at random; returns its model."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    import torch
    from peft import get_peft_model

    from posttrain.data.tokens import tokenise
    from posttrain.models import peft_methods
    from posttrain.runtime import atomic
    from posttrain.training import inputs
    from posttrain.workflow.project import Project
    from tokenize_data import schema

    Path("results/bases/base").mkdir(parents=True)
    Path("results/bases/base/model").symlink_to(random_tiny_folder)
    atomic.write_json(Path("results/bases/base/base.json"), {"files": {}})
    encoded, _ = tokenise(random_tiny_tokenizer, chats, "messages", 64)
    Path("tokens").mkdir()
    for split, rows in (("train", encoded), ("validation", [])):
        pq.write_table(pa.Table.from_pylist(rows, schema=schema("messages")), f"tokens/{split}.parquet")

    def make(objective: str, method: str = "lora", scale: float = 0.1, parent=random_tiny_folder, **keys):
        data = "chats" if objective == "sft" else "pairs"
        table = {"from": "base", "objective": objective, "data": data, "method": method} | keys
        spec = Path(f"results/{objective}/spec.json")
        spec.parent.mkdir(parents=True, exist_ok=True)
        spec.write_text(Project(configuration({"runs": {objective: table}, "sweeps": {}})).spec(objective))
        values = atomic.read_json(spec)
        base = inputs.load_parent(parent, values)
        config = peft_methods.peft_config(values, base, 10)
        model = get_peft_model(base, config) if config else base
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
                parameter.data += scale * torch.randn_like(parameter)
        model.save_pretrained(spec.parent / "trained")
        atomic.write_json(spec.parent / "train.json", {})
        return model.eval()

    return make


@pytest.fixture
def merge(random_run, random_tiny_folder):
    """Make a random run and merge it; returns the model before."""
    from argparse import Namespace

    import merge_model

    def make(objective: str, method: str = "lora", parent=random_tiny_folder, **keys):
        model = random_run(objective, method, parent=parent, **keys)
        preflight = Path("results/preflight.json")
        preflight.write_text('{"licences": {}}')
        paths = {"manifest": Path("results/bases/base/base.json"), "tokens": Path("tokens"), "preflight": preflight}
        merge_model.main(Namespace(spec=Path(f"results/{objective}/spec.json"), parent=parent, shipped=parent, **paths))
        return model

    return make


@pytest.fixture
def fp32(monkeypatch):
    """Evaluate in float32 on every processor, so that two ways to compute a number can be compared closely."""
    from posttrain.models import loading

    monkeypatch.setattr(loading, "precision", lambda wanted: "fp32")


def normalised() -> list[dict]:
    """CHATS as normalised rows."""
    from posttrain.data.rows import normalise

    rows = [{"prompt": prompt, "completion": completion} for prompt, completion in CHATS]
    return [normalise(row, "prompt_completion", {}, "row") for row in rows]
