"""MLflow's model registry: a run's model as a version that `mlflow.transformers.load_model` loads.

The folder that MLflow wants has the model's own files in it. Where artefacts lie on this machine, the weights there are further names of
the files of `model/` and take no room; a server is sent a copy. Nothing is pickled, and the weights are not loaded.
"""

import sqlite3
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from posttrain.compat.mlflow_tasks import tasks_with_classes
from posttrain.methods import METHODS
from posttrain.objectives import OBJECTIVES
from posttrain.runtime.atomic import link, read_json, whole_folder
from posttrain.runtime.errors import UserError
from posttrain.runtime.hashes import sha256, visible_files
from posttrain.training import mlflow_tracking

ARTIFACT = "model"  # the folder among a run's artefacts
PACKAGES = ("torch", "transformers", "accelerate")  # that loading takes


def register(folder: Path) -> str:
    """Make a finished run's model a version of the registered model of its name; returns what was done.

    Args:
        folder: of the run, under results/.

    Raises:
        UserError: the run is not merged yet or cannot be merged, or the store is away.
    """
    name, spec = folder.name, read_json(folder / "spec.json")
    if not METHODS[spec["method"]].mergeable:
        problem = f"a run with method: {spec['method']} is an adapter beside its base, which MLflow does not load"
        raise UserError("unsupported-combination", name, problem, "register a run that can be merged")
    if not (folder / "merge.json").exists():
        raise UserError("not-built", name, "it is not merged yet", f"run: snakemake --cores 1 {folder}/model")
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        return _register(folder, name, spec)
    except (MlflowException, SQLAlchemyError, sqlite3.Error, OSError) as error:
        raise mlflow_tracking.is_away(name, error) from None


def _register(folder: Path, name: str, spec: dict[str, Any]) -> str:
    from mlflow.exceptions import MlflowException

    store = mlflow_tracking.client()
    run_id = mlflow_tracking.run_of(store, folder)
    digest = sha256(folder / "merge.json")
    try:
        known = store.search_model_versions(f"name = '{name}'")
    except MlflowException:
        known = []
    for version in known:
        if version.tags.get("posttrain.merge") == digest:
            return f"{name}: version {version.version} is registered already"
    source = _log_model(store, run_id, folder, spec)
    try:
        store.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    tags = {"posttrain.merge": digest, mlflow_tracking.SPEC_TAG: sha256(folder / "spec.json")}
    version = store.create_model_version(name, source, run_id, tags=tags).version
    return f"{name}: version {version} is registered; mlflow.transformers.load_model('models:/{name}/{version}')"


def _log_model(store: Any, run_id: str, folder: Path, spec: dict[str, Any]) -> str:
    """Put the model among the run's artefacts; returns where."""
    uri = store.get_run(run_id).info.artifact_uri.rstrip("/")
    place = urlsplit(uri)
    if place.scheme in ("", "file"):
        with whole_folder(Path(unquote(place.path)) / ARTIFACT) as target:
            _write(folder / "model", spec, target)
    else:
        with tempfile.TemporaryDirectory(dir=folder) as target:
            _write(folder / "model", spec, Path(target))
            store.log_artifacts(run_id, target, ARTIFACT)
    return f"{uri}/{ARTIFACT}"


def _write(model: Path, spec: dict[str, Any], target: Path) -> None:
    """Fill a folder as MLflow has it: it is given all but the weights, which it would copy; they are linked afterwards."""
    from importlib.metadata import version

    import mlflow
    from huggingface_hub import ModelCard
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    task, signature = "llm/v1/chat", None
    if OBJECTIVES[spec["objective"]].scores:
        task = "text-classification"
        outputs = Schema([ColSpec("string", "label"), ColSpec("double", "score")])
        signature = ModelSignature(inputs=Schema([ColSpec("string")]), outputs=outputs)
    elif not (model / "chat_template.jinja").exists():
        task, signature = "text-generation", ModelSignature(Schema([ColSpec("string")]), Schema([ColSpec("string")]))
    files = visible_files(model)
    with tempfile.TemporaryDirectory(dir=target) as scratch:
        light, made = Path(scratch, "light"), Path(scratch, "made")
        for file in files:
            if ".safetensors" not in file.name:
                link(file, light / file.relative_to(model))
        with tasks_with_classes():
            mlflow.transformers.save_model(
                str(light),
                path=str(made),
                task=task,
                signature=signature,
                model_card=ModelCard((model / "README.md").read_text(encoding="utf-8")),
                pip_requirements=[f"{package}=={version(package)}" for package in PACKAGES],
            )
        for file in made.iterdir():
            file.rename(target / file.name)
    for file in files:
        if ".safetensors" in file.name:
            link(file, target / "model" / file.relative_to(model))
