"""A base from a local folder, from the hub's cache layout and from the hub's cache when offline; what is refused."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A folder as on the hub, with a random tiny model in it."""
    import make_base

    folder = tmp_path_factory.mktemp("model")
    data = folder / "results/data/words"
    data.mkdir(parents=True)
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"text": ["some words to learn a tokenizer from"] * 3}), data / "train.parquet")
    before = Path.cwd()
    os.chdir(folder)
    try:
        spec = {"text": {"name": "words"}, "vocab_size": 300, "hidden_size": 16, "layers": 1, "heads": 2, "seed": 1}
        make_base.at_random(spec, folder / "tiny", "tiny", data / "train.parquet")
    finally:
        os.chdir(before)
    return folder / "tiny"


def build(folder: Path, spec: dict, **environment: str) -> subprocess.CompletedProcess:
    """Run the stage by hand on a spec."""
    output = folder / "results/bases/b"
    output.mkdir(parents=True, exist_ok=True)
    (output / "spec.json").write_text(json.dumps({"licence": None} | spec))
    script = [sys.executable, REPOSITORY / "scripts/make_base.py", "--spec", output / "spec.json", "--output", output]
    return subprocess.run(script, cwd=folder, capture_output=True, text=True, env=os.environ | environment)


def hub_layout(model: Path, folder: Path) -> Path:
    """The model as a repository's folder in the hub's cache."""
    repository = folder / "models--lab--tiny"
    snapshot = repository / "snapshots/0123abc"
    snapshot.parent.mkdir(parents=True)
    snapshot.symlink_to(model)
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text("0123abc")
    return repository


def built(folder: Path, model: Path) -> None:
    manifest = json.loads((folder / "results/bases/b/base.json").read_text())
    weights = folder / "results/bases/b/model/model.safetensors"
    assert weights.read_bytes() == (model / "model.safetensors").read_bytes()
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= manifest["files"].keys()


def test_a_local_folder(tmp_path, model):
    run = build(tmp_path, {"source": "path", "path": str(model)})
    assert run.returncode == 0, run.stderr
    built(tmp_path, model)


def test_a_local_folder_in_the_layout_of_the_hub_s_cache(tmp_path, model):
    run = build(tmp_path, {"source": "path", "path": str(hub_layout(model, tmp_path))})
    assert run.returncode == 0, run.stderr
    built(tmp_path, model)


def test_a_hub_id_offline_comes_from_the_cache(tmp_path, model):
    hub_layout(model, tmp_path / "cache")
    cache = {"HF_HUB_CACHE": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    run = build(tmp_path, {"source": "hub", "model": "lab/tiny", "revision": "main"}, **cache)
    assert run.returncode == 0, run.stderr
    built(tmp_path, model)


def test_a_hub_id_that_is_nowhere_is_one_sentence(tmp_path):
    cache = {"HF_HUB_CACHE": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    run = build(tmp_path, {"source": "hub", "model": "lab/none", "revision": "main"}, **cache)
    assert run.returncode == 1 and "Traceback" not in run.stderr
    assert "posttrain: base b: lab/none at main is neither on the hub nor in its cache" in run.stderr


def test_pickled_weights_and_code_are_left_behind(tmp_path, model):
    folder = tmp_path / "mixed"
    folder.mkdir()
    for file in model.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    (folder / "modeling_mine.py").write_text("raise SystemExit")
    assert build(tmp_path, {"source": "path", "path": str(folder)}).returncode == 0
    names = {file.name for file in (tmp_path / "results/bases/b/model").iterdir()}
    assert "model.safetensors" in names and not names & {"pytorch_model.bin", "modeling_mine.py"}


@pytest.mark.parametrize(
    ("missing", "sentence"), [("model.safetensors", "no .safetensors"), ("tokenizer.json", "no tokenizer")]
)
def test_an_incomplete_folder_is_refused_and_leaves_nothing(tmp_path, model, missing, sentence):
    folder = tmp_path / "part"
    folder.mkdir()
    for file in model.iterdir():
        if file.name != missing:
            (folder / file.name).write_bytes(file.read_bytes())
    run = build(tmp_path, {"source": "path", "path": str(folder)})
    assert run.returncode == 1 and sentence in run.stderr
    assert not (tmp_path / "results/bases/b/model").exists()
