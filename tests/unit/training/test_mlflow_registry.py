"""A run's model in MLflow's registry, on SQLite: it loads by mlflow.transformers, takes no second copy, and is registered once."""

import json
import shutil
from pathlib import Path

import mlflow
import pytest
from conftest import refused

from posttrain.runtime.atomic import write_json
from posttrain.training import mlflow_registry, mlflow_tracking

SETTINGS = {"mlflow": True, "experiment": "registry", "system_metrics": False, "checkpoint_seconds": 60}
SPEC = {
    "objective": "dpo",
    "method": "lora",
    "from": {"name": "sft", "spec": "5" * 64},
    "data": {"name": "pairs", "spec": "0"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A project of these tests, since making a store takes seconds."""
    return tmp_path_factory.mktemp("registry")


@pytest.fixture
def run(folder, monkeypatch, random_tiny_folder) -> Path:
    """A run that is trained and merged, and that MLflow knows nothing of; its parent is known."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("POSTTRAIN_TRACKING", json.dumps(SETTINGS))
    made = Path("results/dpo,rank=4")
    if not made.exists():
        write_json(made / "spec.json", SPEC)
        write_json(made / "train.json", {"steps": 1, "mlflow_run_id": None})
        (made / "train.jsonl").write_text('{"step": 1, "loss": 2.0}\n')
        write_json(made / "merge.json", {"files": {}})
        shutil.copytree(random_tiny_folder, made / "model")
        (made / "model/README.md").write_text("---\nlicense: mit\n---\n# dpo\n")
        write_json(Path("results/sft/train.json"), {"mlflow_run_id": "ab" * 16})
        rows = {"train.parquet": "1" * 64, "validation.parquet": "2" * 64, "dropped.jsonl": "3" * 64}
        write_json(Path("results/data/pairs/data.json"), {"written": rows})
    return made


def test_a_registered_model_loads_and_is_the_models_own_file(run):
    import torch

    said = mlflow_registry.register(run)
    assert said == "dpo,rank=4: version 1 is registered; mlflow.transformers.load_model('models:/dpo,rank=4/1')"
    assert mlflow_registry.register(run) == "dpo,rank=4: version 1 is registered already"
    (version,) = mlflow_tracking.client().search_model_versions("name = 'dpo,rank=4'")
    artefacts = Path(version.source.removeprefix("file://"))
    weights = artefacts / "model/model.safetensors"
    assert weights.samefile(run / "model/model.safetensors")
    assert not [file for file in artefacts.rglob("*") if file.suffix in (".pkl", ".bin", ".pt", ".pickle")]
    assert mlflow.models.get_model_info("models:/dpo,rank=4/1").signature.inputs.input_names()[0] == "messages"
    loaded = mlflow.transformers.load_model("models:/dpo,rank=4/1")
    from transformers import AutoModelForCausalLM

    own = AutoModelForCausalLM.from_pretrained(run / "model").state_dict()
    assert all(torch.equal(tensor, own[name]) for name, tensor in loaded.model.state_dict().items())
    answer = loaded([{"role": "user", "content": "Name a fruit."}], max_new_tokens=2)
    assert answer[0]["generated_text"][-1]["role"] == "assistant"


def test_the_parent_is_a_tag_and_the_rows_are_inputs(run):
    store = mlflow_tracking.client()
    found = store.get_run(mlflow_tracking.run_of(store, run))
    tags = {key: value for key, value in found.data.tags.items() if key.startswith("posttrain.parent")}
    assert tags == {"posttrain.parent": "sft", "posttrain.parent_spec": "5" * 64, "posttrain.parent_run_id": "ab" * 16}
    inputs = {one.tags[0].value: one.dataset for one in found.inputs.dataset_inputs}
    assert {context: (rows.name, rows.digest) for context, rows in inputs.items()} == {
        "training": ("pairs/train.parquet", "1" * 36),
        "validation": ("pairs/validation.parquet", "2" * 36),
    }
    assert json.loads(inputs["training"].source)["uri"].endswith("results/data/pairs/train.parquet")


def test_a_changed_model_is_a_new_version(run):
    mlflow_registry.register(run)
    write_json(run / "merge.json", {"files": {"model.safetensors": "another"}})
    assert mlflow_registry.register(run).startswith("dpo,rank=4: version 2 is registered;")


def test_what_cannot_be_registered_is_one_sentence(run):
    write_json(Path("results/prefix/spec.json"), SPEC | {"method": "prefix"})
    with refused("unsupported-combination", "prefix"):
        mlflow_registry.register(Path("results/prefix"))
    write_json(Path("results/new/spec.json"), SPEC)
    with refused("not-built", "new"):
        mlflow_registry.register(Path("results/new"))
