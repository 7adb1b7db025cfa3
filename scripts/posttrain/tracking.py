"""MLflow: one run a training stage, continued by a resumed stage; a SQLite file under results/ unless told otherwise.

The settings reach a stage through the environment, never through its spec: how a run is watched does not change it.
"""

import fcntl
import json
import os
import sys
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

STORE = Path("results/mlflow.db")
SETTINGS = "POSTTRAIN_TRACKING"


def settings() -> dict[str, Any]:
    """The configuration's `tracking` table; nothing is tracked where a script is run by hand without it."""
    return {"mlflow": False, "checkpoint_seconds": 60.0} | json.loads(os.environ.get(SETTINGS, "{}"))


def client() -> Any:
    """An MLflow client for the configured store, whose database and experiment exist."""
    import mlflow

    default = f"sqlite:///{STORE.resolve()}"
    uri = os.environ.get("MLFLOW_TRACKING_URI") or default
    mlflow.set_tracking_uri(uri)
    STORE.parent.mkdir(parents=True, exist_ok=True)
    # Two processes that create the same SQLite store at once break its migration.
    with STORE.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        name = settings()["experiment"]
        if mlflow.get_experiment_by_name(name) is None:
            artefacts = STORE.with_name("mlartifacts").resolve().as_uri()
            mlflow.create_experiment(name, artifact_location=artefacts if uri == default else None)
        mlflow.set_experiment(name)
    return mlflow.MlflowClient()


class MLflowCallback(TrainerCallback):
    """Log a stage's spec, its per-step metrics and the system's; `folder` remembers the run's id for a resume."""

    def __init__(self, run_name: str, spec: Path, folder: Path) -> None:
        import mlflow

        self.mlflow, self.client = mlflow, client()
        remembered = folder / "mlflow_run_id"
        known = remembered.read_text() if remembered.exists() else None
        if settings()["system_metrics"]:
            mlflow.enable_system_metrics_logging()
            mlflow.set_system_metrics_sampling_interval(5)
        known = known if known and _is_there(self.client, known) else None
        self.run_id = mlflow.start_run(run_id=known, run_name=run_name).info.run_id
        remembered.write_text(self.run_id)
        self.last_step = 0
        if known:  # steps after the last checkpoint are trained again; they are logged already
            history = self.client.get_metric_history(self.run_id, "loss")
            self.last_step = max((point.step for point in history), default=0)
        else:
            mlflow.log_params(json.loads(spec.read_text()))
            mlflow.log_artifact(str(spec))

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        """Send one step's numbers, those of train.jsonl among them."""
        if state.is_world_process_zero and state.global_step > self.last_step:
            line = {**logs, **state.log_history[-1]}
            line.pop("step", None)
            numbers = {key: float(value) for key, value in line.items() if isinstance(value, int | float)}
            self.mlflow.log_metrics(numbers, step=state.global_step)

    def close(self, status: str) -> None:
        """End the MLflow run: FINISHED, or KILLED where the stage was stopped and will be resumed."""
        self.mlflow.end_run(status)


def _is_there(store: Any, run_id: str) -> bool:
    """Whether the store still has a run; it may have been deleted, or the store replaced, since the run was begun."""
    from mlflow.exceptions import MlflowException

    try:
        return store.get_run(run_id).info.lifecycle_stage == "active"
    except MlflowException:
        return False


def log_evaluation(run_id: str, eval_json: Path) -> None:
    """Add an evaluation's metrics and file to the training stage's run; a store that is gone is only reported."""
    from mlflow.exceptions import MlflowException

    try:
        store = client()
        for name, metric in json.loads(eval_json.read_text())["metrics"].items():
            store.log_metric(run_id, f"eval/{name}", metric["value"])
        store.log_artifact(run_id, str(eval_json))
    except MlflowException as error:
        print(f"MLflow: {error}", file=sys.stderr)
