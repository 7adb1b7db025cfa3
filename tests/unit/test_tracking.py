"""A real MLflow store, a SQLite file in the project's folder: a resumed stage stays one run and repeats no step."""

import json
from pathlib import Path

import mlflow
import pytest
from transformers import TrainerControl, TrainerState

from posttrain import tracking
from posttrain.stage import write_json

SETTINGS = {"mlflow": True, "experiment": "unit", "system_metrics": False, "checkpoint_seconds": 60}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """One folder for all tests, since making a store takes seconds; each test has a run of its own in it."""
    return tmp_path_factory.mktemp("project")


@pytest.fixture
def stage(project, monkeypatch, request):
    """Begin the stage named after the test, or go on with it."""
    monkeypatch.chdir(project)
    monkeypatch.setenv("POSTTRAIN_TRACKING", json.dumps(SETTINGS))
    folder = project / request.node.name
    folder.mkdir()
    write_json(folder / "spec.json", {"rank": 4, "from": {"name": "base"}, "trainer_args": {}})
    yield lambda: tracking.MLflowCallback(request.node.name, folder / "spec.json", folder)
    mlflow.end_run("KILLED")


def log(callback, step: int, **numbers) -> None:
    state = TrainerState(global_step=step, log_history=[{**numbers, "step": step}])
    callback.on_log(None, state, TrainerControl(), logs=numbers)


def steps(run_id: str, metric: str = "loss") -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in tracking.client().get_metric_history(run_id, metric)]


def test_the_parameters_the_spec_and_each_steps_numbers_arrive(stage, project):
    callback = stage()
    log(callback, 1, loss=2.0, grad_norm=0.5, comment="no number")
    log(callback, 2, loss=1.5)
    callback.close("FINISHED")
    run = tracking.client().get_run(callback.run_id)
    assert (run.info.status, run.info.run_name) == (
        "FINISHED",
        "test_the_parameters_the_spec_and_each_steps_numbers_arrive",
    )
    assert run.data.params["rank"] == "4"
    assert run.data.metrics == {"loss": 1.5, "grad_norm": 0.5}
    assert steps(callback.run_id) == [(1, 2.0), (2, 1.5)]
    assert [file.path for file in tracking.client().list_artifacts(callback.run_id)] == ["spec.json"]
    assert mlflow.get_experiment(run.info.experiment_id).name == "unit"
    assert (project / "results/mlflow.db").exists()


def test_a_resumed_stage_is_the_same_run_and_logs_no_step_twice(stage):
    first = stage()
    for step in (1, 2, 3):
        log(first, step, loss=float(step))
    first.close("KILLED")
    second = stage()  # from a checkpoint at step 1
    for step in (2, 3, 4):
        log(second, step, loss=float(step))
    second.close("FINISHED")
    assert second.run_id == first.run_id
    assert steps(first.run_id) == [(1, 1.0), (2, 2.0), (3, 3.0), (4, 4.0)]
    assert tracking.client().get_run(first.run_id).info.status == "FINISHED"


def test_a_stage_killed_before_its_first_step_is_the_same_run(stage):
    first = stage()
    mlflow.end_run("KILLED")
    second = stage()
    log(second, 1, loss=1.0)
    assert second.run_id == first.run_id
    assert steps(first.run_id) == [(1, 1.0)]


def test_only_the_main_process_logs(stage):
    callback = stage()
    callback.on_log(
        None, TrainerState(global_step=1, is_world_process_zero=False), TrainerControl(), logs={"loss": 1.0}
    )
    assert steps(callback.run_id) == []


def test_an_evaluation_is_added_to_the_stages_run(stage, project):
    callback = stage()
    callback.close("FINISHED")
    write_json(Path("eval.json"), {"metrics": {"perplexity": {"value": 3.5, "low": 3, "high": 4, "n": 9}}})
    tracking.log_evaluation(callback.run_id, Path("eval.json"))
    assert tracking.client().get_run(callback.run_id).data.metrics == {"eval/perplexity": 3.5}
    assert {file.path for file in tracking.client().list_artifacts(callback.run_id)} == {"spec.json", "eval.json"}


def test_a_run_that_the_store_has_lost_is_reported_where_an_evaluation_is_added(stage, capfd):
    write_json(Path("eval.json"), {"metrics": {"perplexity": {"value": 3.5}}})
    tracking.log_evaluation("0" * 32, Path("eval.json"))
    assert "MLflow: " in capfd.readouterr().err


def test_a_run_that_the_store_has_lost_is_begun_anew_by_a_resumed_stage(stage):
    first = stage()
    first.close("KILLED")
    tracking.client().delete_run(first.run_id)
    assert stage().run_id != first.run_id


def test_without_settings_nothing_is_tracked():
    assert tracking.settings() == {"mlflow": False, "checkpoint_seconds": 60.0}


def test_the_settings_come_from_the_environment(monkeypatch):
    monkeypatch.setenv("POSTTRAIN_TRACKING", json.dumps(SETTINGS))
    assert tracking.settings() == SETTINGS


def test_the_users_own_store_is_honoured(stage, project, monkeypatch, tmp_path):
    callback = stage()
    callback.close("FINISHED")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{project}/results/mlflow.db")
    assert tracking.client().get_run(callback.run_id).info.status == "FINISHED"
    assert not (tmp_path / "results/mlflow.db").exists()


def test_all_of_the_store_lies_under_results(stage, project):
    stage().close("FINISHED")
    assert not (project / "mlruns").exists()
