"""MLflow: one run a training stage, continued by a resumed stage; a SQLite file under results/ unless told otherwise.

The settings reach a stage through the environment, never through its spec: how a run is watched does not change it. Nor does it
stop it: a store that is away is waited for some seconds, said once, and tried again now and then. What it missed is in train.jsonl,
and `posttrain send-mlflow` sends it.
"""

import contextlib
import fcntl
import json
import os
import sqlite3
import time
import traceback
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

from transformers import TrainerCallback

from posttrain.runtime.atomic import read_json
from posttrain.runtime.console import say
from posttrain.runtime.errors import UserError
from posttrain.runtime.hashes import sha256

STORE = Path("results/mlflow.db")
SETTINGS = "POSTTRAIN_TRACKING"
SPEC_TAG = "posttrain.spec"
# MLflow's own patience with a server is some minutes, for each of a step's requests.
PATIENCE = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
}
WAIT = 5.0  # seconds for another process that holds the SQLite store
AGAIN = 60.0  # seconds from one try to the next, at the least; a try never takes more than a twentieth of the time
PARENT_TAG = "posttrain.parent"
CONTEXTS = {
    "train.parquet": "training",
    "validation.parquet": "validation",
}  # what MLflow calls the two parts of a dataset
DIGEST = 36  # characters of a SHA-256, MLflow's most
BATCH = 1000  # numbers in one request, MLflow's own limit


def settings() -> dict[str, Any]:
    """The configuration's `tracking` table; nothing is tracked where a script is run by hand without it."""
    return {"mlflow": False, "checkpoint_seconds": 60.0} | json.loads(os.environ.get(SETTINGS, "{}"))


def client() -> Any:
    """An MLflow client for the configured store, whose database and experiment exist.

    Raises:
        TimeoutError: another process holds the store's SQLite file.
        MlflowException: the store cannot be reached.
    """
    for name, value in PATIENCE.items():
        os.environ.setdefault(name, value)
    import mlflow

    default = f"sqlite:///{STORE.resolve()}"
    uri = _without_password(os.environ.get("MLFLOW_TRACKING_URI") or default)
    mlflow.set_tracking_uri(uri)
    STORE.parent.mkdir(parents=True, exist_ok=True)
    # Two processes that create the same SQLite store at once break its migration.
    with STORE.with_suffix(".lock").open("w") as lock:
        _acquire(lock)
        _check_sqlite(uri)
        name = settings()["experiment"]
        if mlflow.get_experiment_by_name(name) is None:
            artefacts = STORE.with_name("mlartifacts").resolve().as_uri()
            mlflow.create_experiment(name, artifact_location=artefacts if uri == default else None)
        mlflow.set_experiment(name)
    return mlflow.MlflowClient()


def _without_password(uri: str) -> str:
    """A server's address without the user and password in it, which MLflow would print in its errors; it reads them elsewhere."""
    parts = urlsplit(uri)
    if not (parts.scheme.startswith("http") and parts.username):
        return uri
    os.environ["MLFLOW_TRACKING_USERNAME"] = unquote(parts.username)
    os.environ["MLFLOW_TRACKING_PASSWORD"] = unquote(parts.password or "")
    os.environ["MLFLOW_TRACKING_URI"] = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
    return os.environ["MLFLOW_TRACKING_URI"]


def _acquire(lock: Any) -> None:
    end = time.monotonic() + 6 * WAIT  # making a store takes seconds on a slow disk
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > end:
                raise TimeoutError(f"{lock.name}: another process has been making the store for too long") from None
            time.sleep(0.1)


def _check_sqlite(uri: str) -> None:
    """Find out whether a SQLite store can be written; MLflow would try for minutes before it says that it cannot."""
    if not uri.startswith("sqlite:///"):
        return
    with contextlib.closing(sqlite3.connect(uri.removeprefix("sqlite:///"), timeout=WAIT)) as connection:
        connection.execute("BEGIN IMMEDIATE")


class MLflowCallback(TrainerCallback):
    """Log a stage's spec, its per-step metrics and the system's; `folder` remembers the run's id for a resume."""

    def __init__(self, run_name: str, spec: Path, folder: Path) -> None:
        self.run_name, self.spec, self.remembered = run_name, spec, folder / "mlflow_run_id"
        self.run_id: str | None = None
        self.is_away = False
        self.next_try = 0.0
        self.seen = 0  # lines of the trainer's log that are sent
        self.last_step = 0  # the last step that an earlier process sent
        self._try(self._begin)

    def _try(self, action: Any, *arguments: Any) -> None:
        """Do what needs the store; whatever happens there, training goes on."""
        began = time.monotonic()
        try:
            action(*arguments)
        except Exception as error:
            traceback.print_exc()  # to the log
            if not self.is_away:
                say(
                    f"{self.run_name}: MLflow is away ({reason(error)}); training goes on without it, and its numbers are in "
                    f"train.jsonl; what it misses, send later: posttrain send-mlflow {self.run_name}"
                )
            now = time.monotonic()
            self.is_away, self.next_try = True, now + max(AGAIN, 20 * (now - began))

    def _begin(self) -> None:
        import mlflow

        self.mlflow, self.client = mlflow, client()
        if settings()["system_metrics"]:
            mlflow.enable_system_metrics_logging()
            mlflow.set_system_metrics_sampling_interval(5)
        known = self.remembered.read_text() if self.remembered.exists() else None
        known = known if known and _is_there(self.client, known) else None
        mlflow.end_run()  # the one that a failed try began
        tags = {SPEC_TAG: sha256(self.spec)}
        run_id = mlflow.start_run(run_id=known, run_name=self.run_name, tags=tags).info.run_id
        self.remembered.write_text(run_id)
        _describe(self.client, run_id, self.spec)
        if known:  # steps after the last checkpoint are trained again; they are logged already
            history = self.client.get_metric_history(run_id, "loss")
            self.last_step = max((point.step for point in history), default=0)
        self.run_id = run_id

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        """Send the numbers of the steps that are not sent yet, those of train.jsonl among them."""
        if state.is_world_process_zero and time.monotonic() >= self.next_try:
            self._try(self._send, state.log_history)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Try once more, where the store was away."""
        if state.is_world_process_zero and self.is_away:
            self._try(self._send, state.log_history)

    def _send(self, log: list[dict[str, Any]]) -> None:
        if self.run_id is None:
            self._begin()
        _check_sqlite(self.mlflow.get_tracking_uri())
        lines = [line for line in log[self.seen :] if line["step"] > self.last_step]
        _log_lines(self.client, self.run_id, lines, int(time.time() * 1000))
        self.seen = len(log)
        self.is_away, self.next_try = False, 0.0

    def close(self, status: str) -> None:
        """End the MLflow run: FINISHED, or KILLED where the stage was stopped and will be resumed."""
        if self.run_id:
            self._try(self._end, status)

    def _end(self, status: str) -> None:
        _check_sqlite(self.mlflow.get_tracking_uri())
        self.mlflow.end_run(status)


def reason(error: Exception) -> str:
    """The first line of an error, as far as it fits a sentence."""
    text = (str(error).strip() or type(error).__name__).splitlines()[0].partition(" with exception ")[0]
    return text if len(text) <= 120 else f"{text[:117]}..."


def _is_there(store: Any, run_id: str) -> bool:
    """Whether the store still has a run; it may have been deleted, or the store replaced, since the run was begun."""
    from mlflow.exceptions import MlflowException

    try:
        return store.get_run(run_id).info.lifecycle_stage == "active"
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return False
        raise


def _describe(store: Any, run_id: str, spec: Path) -> None:
    """Give a run its parameters and its spec, where it has none yet."""
    from mlflow.entities import Param

    if not store.get_run(run_id).data.params:
        settings = read_json(spec)
        store.log_batch(run_id, params=[Param(key, str(value)) for key, value in settings.items()])
        store.log_artifact(run_id, str(spec))
        _describe_origin(store, run_id, spec.parent.parent, settings)


def _describe_origin(store: Any, run_id: str, results: Path, settings: dict[str, Any]) -> None:
    """Say what a run is made from: its parent as tags, the rows that it trains on and those that are held out as inputs."""
    from mlflow.data import dataset_source_registry, meta_dataset
    from mlflow.entities import Dataset, DatasetInput, InputTag

    parent, train = settings["from"], results / settings["from"]["name"] / "train.json"
    tags = {PARENT_TAG: parent["name"], f"{PARENT_TAG}_spec": parent.get("spec")}
    if train.exists():
        tags[f"{PARENT_TAG}_run_id"] = read_json(train)["mlflow_run_id"]
    for key, value in tags.items():
        if value:
            store.set_tag(run_id, key, value)
    folder = results / "data" / settings.get("data", {}).get("name", "")
    record = folder / "data.json"
    inputs = []
    for split, digest in (read_json(record).get("written", {}) if record.exists() else {}).items():
        context = CONTEXTS.get(split)
        if context:
            source = dataset_source_registry.resolve_dataset_source(str(folder / split))
            rows = meta_dataset.MetaDataset(source, f"{folder.name}/{split}", digest[:DIGEST])
            inputs.append(
                DatasetInput(Dataset.from_dictionary(rows.to_dict()), [InputTag("mlflow.data.context", context)])
            )
    if inputs:
        store.log_inputs(run_id, inputs)


def _log_lines(store: Any, run_id: str, lines: list[dict[str, Any]], milliseconds: int) -> None:
    """Send the numbers of some lines of train.jsonl, or of the trainer's log; a line's own `milliseconds` have precedence."""
    from mlflow.entities import Metric

    metrics = [
        Metric(key, float(value), line.get("milliseconds", milliseconds), line["step"])
        for line in lines
        for key, value in line.items()
        if key not in ("step", "milliseconds") and isinstance(value, int | float)
    ]
    for start in range(0, len(metrics), BATCH):
        store.log_batch(run_id, metrics=metrics[start : start + BATCH])


def log_finished(eval_json: Path) -> None:
    """Add a run's evaluation to the MLflow run of its training, where there is one."""
    run_id = read_json(eval_json.with_name("train.json"))["mlflow_run_id"]
    if settings()["mlflow"] and run_id:
        log_evaluation(run_id, eval_json)


def log_evaluation(run_id: str, eval_json: Path) -> None:
    """Add an evaluation's metrics and file to the training stage's run; a store that does not take them is only reported."""
    name = eval_json.parent.name
    try:
        _log_evaluation(client(), run_id, eval_json)
    except Exception as error:
        traceback.print_exc()
        say(
            f"{name}: MLflow did not take the evaluation ({reason(error)}); send it later: posttrain send-mlflow {name}"
        )


def _log_evaluation(store: Any, run_id: str, eval_json: Path) -> None:
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    metrics = read_json(eval_json)["metrics"].items()
    store.log_batch(run_id, metrics=[Metric(f"eval/{name}", metric["value"], now, 0) for name, metric in metrics])
    store.log_artifact(run_id, str(eval_json))


# ---- later


def send(name: str) -> str:
    """Send a finished run's spec, steps and evaluation to MLflow, as far as they are not there; returns what was sent.

    Raises:
        UserError: the run is not trained yet, or the store is away.
    """
    folder = Path("results") / name
    if not (folder / "train.json").exists():
        raise UserError("not-built", "", f"{name} is not trained yet", f"run: snakemake --cores 1 {folder}/trained")
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        store = client()
        run_id = run_of(store, folder)
        numbers = _send_steps(store, run_id, folder / "train.jsonl")
        evaluated = _send_evaluation(store, run_id, folder / "eval.json")
        if store.get_run(run_id).info.status != "FINISHED":
            store.set_terminated(run_id, "FINISHED")
    except (MlflowException, SQLAlchemyError, sqlite3.Error, OSError) as error:
        raise is_away(name, error) from None
    return f"{name}: {numbers} step{'s' * (numbers != 1)} sent{', and its evaluation' if evaluated else ''}"


def is_away(name: str, error: Exception) -> UserError:
    """What to say of a store that does not take what a run has."""
    hint = "start its server, or end what holds its file, and send again"
    return UserError("unreachable-server", name, f"MLflow is away ({reason(error)})", hint)


def run_of(store: Any, folder: Path) -> str:
    """The id of a trained run's MLflow run, which is made where there is none."""
    return _find(store, folder) or _create(store, folder)


def _find(store: Any, folder: Path) -> str | None:
    """The MLflow run of a run that is trained: the one that it was logged to, or that was sent before."""
    known = read_json(folder / "train.json")["mlflow_run_id"]
    if known and _is_there(store, known):
        return known
    experiment = store.get_experiment_by_name(settings()["experiment"])
    query = f"tags.`{SPEC_TAG}` = '{sha256(folder / 'spec.json')}' and attributes.run_name = '{folder.name}'"
    found = store.search_runs([experiment.experiment_id], query, max_results=1)
    return found[0].info.run_id if found else None


def _create(store: Any, folder: Path) -> str:
    experiment = store.get_experiment_by_name(settings()["experiment"])
    tags = {SPEC_TAG: sha256(folder / "spec.json")}
    run_id = store.create_run(experiment.experiment_id, run_name=folder.name, tags=tags).info.run_id
    _describe(store, run_id, folder / "spec.json")
    return run_id


def _send_steps(store: Any, run_id: str, steps: Path) -> int:
    """Send the numbers of train.jsonl that the store does not have, at the times at which they were measured."""
    lines = [json.loads(line) for line in steps.read_text().splitlines()]
    sent = {
        key: {point.step for point in store.get_metric_history(run_id, key)}
        for key in dict.fromkeys(key for line in lines for key in line if key != "step")
    }
    began = steps.stat().st_mtime - max(line.get("seconds", 0.0) for line in lines)
    missing = [
        {key: value for key, value in line.items() if key == "step" or line["step"] not in sent[key]}
        | {"milliseconds": int(1000 * (began + line.get("seconds", 0.0)))}
        for line in lines
    ]
    missing = [line for line in missing if line.keys() > {"step", "milliseconds"}]
    _log_lines(store, run_id, missing, 0)
    return len({line["step"] for line in missing})


def _send_evaluation(store: Any, run_id: str, eval_json: Path) -> bool:
    """Send an evaluation, where there is one that the store does not have."""
    if not eval_json.exists():
        return False
    logged = store.get_run(run_id).data.metrics
    metrics = read_json(eval_json)["metrics"]
    if all(logged.get(f"eval/{name}") == metric["value"] for name, metric in metrics.items()):
        return False
    _log_evaluation(store, run_id, eval_json)
    return True
