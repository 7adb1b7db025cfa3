"""A real MLflow store, a SQLite file in the project's folder: a resumed stage stays one run and repeats no step."""

import contextlib
import json
import socket
import sqlite3
import threading
import time
from pathlib import Path

import mlflow
import pytest
from conftest import refused
from transformers import TrainerControl, TrainerState

from posttrain.runtime.atomic import write_json
from posttrain.training import mlflow_tracking

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
    yield lambda: mlflow_tracking.MLflowCallback(request.node.name, folder / "spec.json", folder)
    mlflow.end_run("KILLED")


@pytest.fixture
def said(monkeypatch) -> list[str]:
    """What the person at the terminal is told."""
    lines: list[str] = []
    monkeypatch.setattr(mlflow_tracking, "say", lines.append)
    return lines


def log(callback, step: int, **numbers) -> None:
    """Log a step as the trainer does, whose history has the steps of a checkpoint as well."""
    history = vars(callback).setdefault("test_history", [])
    history.append({**numbers, "step": step})
    callback.on_log(None, TrainerState(global_step=step, log_history=history), TrainerControl(), logs=numbers)


def steps(run_id: str, metric: str = "loss") -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in mlflow_tracking.client().get_metric_history(run_id, metric)]


def test_the_parameters_the_spec_and_each_steps_numbers_arrive(stage, project):
    callback = stage()
    log(callback, 1, loss=2.0, grad_norm=0.5, comment="no number")
    log(callback, 2, loss=1.5)
    callback.close("FINISHED")
    run = mlflow_tracking.client().get_run(callback.run_id)
    assert (run.info.status, run.info.run_name) == (
        "FINISHED",
        "test_the_parameters_the_spec_and_each_steps_numbers_arrive",
    )
    assert run.data.params["rank"] == "4"
    assert run.data.metrics == {"loss": 1.5, "grad_norm": 0.5}
    assert steps(callback.run_id) == [(1, 2.0), (2, 1.5)]
    assert [file.path for file in mlflow_tracking.client().list_artifacts(callback.run_id)] == ["spec.json"]
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
    assert mlflow_tracking.client().get_run(first.run_id).info.status == "FINISHED"


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
    mlflow_tracking.log_evaluation(callback.run_id, Path("eval.json"))
    assert mlflow_tracking.client().get_run(callback.run_id).data.metrics == {"eval/perplexity": 3.5}
    assert {file.path for file in mlflow_tracking.client().list_artifacts(callback.run_id)} == {
        "spec.json",
        "eval.json",
    }


def test_a_run_that_the_store_has_lost_is_reported_where_an_evaluation_is_added(stage, said):
    write_json(Path("sft/eval.json"), {"metrics": {"perplexity": {"value": 3.5}}})
    mlflow_tracking.log_evaluation("0" * 32, Path("sft/eval.json"))
    (line,) = said
    assert line.startswith("sft: MLflow did not take the evaluation (Run with id=0")
    assert line.endswith("send it later: posttrain send-mlflow sft")


def test_a_run_that_the_store_has_lost_is_begun_anew_by_a_resumed_stage(stage):
    first = stage()
    first.close("KILLED")
    mlflow_tracking.client().delete_run(first.run_id)
    assert stage().run_id != first.run_id


def test_without_settings_nothing_is_tracked():
    assert mlflow_tracking.settings() == {"mlflow": False, "checkpoint_seconds": 60.0}


def test_the_settings_come_from_the_environment(monkeypatch):
    monkeypatch.setenv("POSTTRAIN_TRACKING", json.dumps(SETTINGS))
    assert mlflow_tracking.settings() == SETTINGS


def test_the_users_own_store_is_honoured(stage, project, monkeypatch, tmp_path):
    callback = stage()
    callback.close("FINISHED")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{project}/results/mlflow.db")
    assert mlflow_tracking.client().get_run(callback.run_id).info.status == "FINISHED"
    assert not (tmp_path / "results/mlflow.db").exists()


def test_all_of_the_store_lies_under_results(stage, project):
    stage().close("FINISHED")
    assert not (project / "mlruns").exists()


# ---- away


@contextlib.contextmanager
def server(folder: Path, port: int = 0):
    """MLflow's own server over a SQLite file in `folder`; yields its port. It is gone after the block."""
    from mlflow.server import app, handlers
    from werkzeug.serving import make_server

    store = f"sqlite:///{folder}/server.db"
    handlers._tracking_store = handlers._get_tracking_store(store, str(folder / "artifacts"))
    web = make_server("127.0.0.1", port, app, threaded=True)
    thread = threading.Thread(target=web.serve_forever)
    thread.start()
    try:
        yield web.server_port
    finally:
        web.shutdown()
        web.server_close()
        thread.join()


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def seconds(action) -> float:
    began = time.monotonic()
    action()
    return time.monotonic() - began


def test_a_server_that_is_down_is_said_once_and_nothing_stops(stage, said, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")

    def train() -> None:
        callback = stage()
        for step in (1, 2, 3):
            log(callback, step, loss=1.0)
        callback.close("FINISHED")
        assert callback.run_id is None

    assert seconds(train) < 10
    (line,) = said
    name = "test_a_server_that_is_down_is_said_once_and_nothing_stops"
    assert line.startswith(f"{name}: MLflow is away (") and f"posttrain send-mlflow {name}" in line


def test_a_server_that_never_answers_is_waited_for_as_long_as_the_user_says(stage, said, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{deaf.getsockname()[1]}")
        assert seconds(stage) < 4
    assert len(said) == 1


def test_mlflows_own_patience_of_minutes_is_shortened(stage, monkeypatch):
    stage().close("FINISHED")
    for name, value in mlflow_tracking.PATIENCE.items():
        assert mlflow.environment_variables.__dict__[name].get() == int(value)


def test_steps_that_a_dead_server_missed_arrive_when_it_is_back_each_once(stage, said, monkeypatch, tmp_path):
    monkeypatch.setattr(mlflow_tracking, "AGAIN", 0.0)
    with server(tmp_path) as port:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
        callback = stage()
        log(callback, 1, loss=1.0)
    log(callback, 2, loss=2.0)
    assert callback.is_away
    callback.next_try = 0.0
    with server(tmp_path, port):
        log(callback, 3, loss=3.0)
        callback.close("FINISHED")
        assert steps(callback.run_id) == [(1, 1.0), (2, 2.0), (3, 3.0)]
        assert mlflow_tracking.client().get_run(callback.run_id).info.status == "FINISHED"
    assert len(said) == 1


def test_a_dead_server_is_not_asked_at_every_step(stage, said, monkeypatch, tmp_path):
    with server(tmp_path) as port:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
        callback = stage()
    log(callback, 1, loss=1.0)
    asked: list = []
    monkeypatch.setattr(callback, "_send", asked.append)
    for step in range(2, 9):
        log(callback, step, loss=1.0)
    callback.close("KILLED")
    assert asked == [] and callback.next_try > time.monotonic() + 50


def test_a_locked_sqlite_file_is_waited_for_some_seconds_and_caught_up_with(stage, said, project, monkeypatch):
    monkeypatch.setattr(mlflow_tracking, "WAIT", 0.2)
    mlflow_tracking.client()
    with contextlib.closing(sqlite3.connect(project / "results/mlflow.db")) as other:
        other.execute("BEGIN EXCLUSIVE")
        callback = stage()
        assert seconds(lambda: log(callback, 1, loss=1.0)) < 3
        assert callback.run_id is None
    callback.next_try = 0.0
    log(callback, 2, loss=2.0)
    callback.close("FINISHED")
    assert steps(callback.run_id) == [(1, 1.0), (2, 2.0)]
    assert len(said) == 1 and "database is locked" in said[0]


def test_a_sqlite_file_that_is_locked_in_the_middle_stops_nothing(stage, said, project, monkeypatch):
    monkeypatch.setattr(mlflow_tracking, "WAIT", 0.2)
    callback = stage()
    with contextlib.closing(sqlite3.connect(project / "results/mlflow.db")) as other:
        other.execute("BEGIN EXCLUSIVE")
        assert seconds(lambda: (log(callback, 1, loss=1.0), callback.close("FINISHED"))) < 3
    assert len(said) == 1 and "database is locked" in said[0]


def test_a_store_that_another_process_is_making_is_waited_for_some_seconds(stage, said, project, monkeypatch):
    import fcntl

    monkeypatch.setattr(mlflow_tracking, "WAIT", 0.05)
    (project / "results").mkdir(exist_ok=True)
    with (project / "results/mlflow.lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert seconds(stage) < 3
    assert len(said) == 1


def test_the_end_of_training_tries_once_more(stage, said, project, monkeypatch):
    monkeypatch.setattr(mlflow_tracking, "WAIT", 0.2)
    callback = stage()
    with contextlib.closing(sqlite3.connect(project / "results/mlflow.db")) as other:
        other.execute("BEGIN EXCLUSIVE")
        log(callback, 1, loss=1.0)
    callback.on_train_end(None, TrainerState(global_step=1, log_history=callback.test_history), TrainerControl())
    assert steps(callback.run_id) == [(1, 1.0)]


def test_a_password_in_the_servers_address_is_not_shown(stage, said, monkeypatch, capfd):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://anna:se%40cret@127.0.0.1:{free_port()}")
    stage()
    shown = "".join([*said, *capfd.readouterr()])
    assert "127.0.0.1" in shown and "cret" not in shown and "anna" not in shown
    credentials = mlflow.utils.credentials.read_mlflow_creds()
    assert (credentials.username, credentials.password) == ("anna", "se@cret")


# ---- sent later

LINES = [
    {"step": 1, "loss": 2.0, "seconds": 1.0},
    {"step": 2, "loss": 1.5, "seconds": 2.0},
    {"step": 2, "eval_loss": 1.75},
]


@pytest.fixture
def trained(project, monkeypatch, request) -> str:
    """A run, named after the test, that is trained and evaluated and that MLflow knows nothing of."""
    monkeypatch.chdir(project)
    monkeypatch.setenv("POSTTRAIN_TRACKING", json.dumps(SETTINGS))
    folder = Path("results") / request.node.name
    write_json(folder / "spec.json", {"rank": 4, "name": request.node.name, "from": {"name": "base"}})
    write_json(folder / "train.json", {"steps": 2, "mlflow_run_id": None})
    (folder / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in LINES))
    write_json(folder / "eval.json", {"metrics": {"perplexity": {"value": 3.5}}})
    return request.node.name


def runs(name: str) -> list:
    experiment = mlflow.get_experiment_by_name("unit").experiment_id
    return mlflow_tracking.client().search_runs([experiment], f"attributes.run_name = '{name}'")


def test_a_run_is_sent_whole_and_twice_repeats_nothing(trained):
    assert mlflow_tracking.send(trained) == f"{trained}: 2 steps sent, and its evaluation"
    assert mlflow_tracking.send(trained) == f"{trained}: 0 steps sent"
    (run,) = runs(trained)
    assert run.info.status == "FINISHED" and run.data.params["rank"] == "4"
    assert run.data.metrics == {"loss": 1.5, "seconds": 2.0, "eval_loss": 1.75, "eval/perplexity": 3.5}
    assert steps(run.info.run_id) == [(1, 2.0), (2, 1.5)]
    assert steps(run.info.run_id, "eval/perplexity") == [(0, 3.5)]
    assert {file.path for file in mlflow_tracking.client().list_artifacts(run.info.run_id)} == {
        "spec.json",
        "eval.json",
    }


def test_steps_are_sent_with_the_times_at_which_they_were_measured(trained):
    mlflow_tracking.send(trained)
    first, second = mlflow_tracking.client().get_metric_history(runs(trained)[0].info.run_id, "loss")
    ended = 1000 * Path(f"results/{trained}/train.jsonl").stat().st_mtime
    assert second.timestamp - first.timestamp == 1000 and abs(second.timestamp - ended) < 2


def test_what_a_stage_logged_itself_is_not_sent_again(trained):
    callback = mlflow_tracking.MLflowCallback(trained, Path(f"results/{trained}/spec.json"), Path(f"results/{trained}"))
    log(callback, 1, loss=2.0, seconds=1.0)
    mlflow.end_run("FAILED")
    write_json(Path(f"results/{trained}/train.json"), {"steps": 2, "mlflow_run_id": callback.run_id})
    assert mlflow_tracking.send(trained) == f"{trained}: 1 step sent, and its evaluation"
    assert sorted(steps(callback.run_id)) == [(1, 2.0), (2, 1.5)]
    assert len(runs(trained)) == 1


def test_a_stage_that_lost_its_server_before_its_id_was_written_is_found_by_its_spec(trained):
    callback = mlflow_tracking.MLflowCallback(trained, Path(f"results/{trained}/spec.json"), Path(f"results/{trained}"))
    log(callback, 1, loss=2.0)
    mlflow.end_run("FAILED")
    mlflow_tracking.send(trained)
    assert sorted(steps(callback.run_id)) == [(1, 2.0), (2, 1.5)] and len(runs(trained)) == 1


def test_a_run_that_is_not_trained_is_refused(trained):
    with refused("not-built"):
        mlflow_tracking.send("other")


def test_sending_to_a_store_that_is_away_is_one_sentence(trained, project, monkeypatch):
    monkeypatch.setattr(mlflow_tracking, "WAIT", 0.2)
    mlflow_tracking.client()
    with contextlib.closing(sqlite3.connect(project / "results/mlflow.db")) as other:
        other.execute("BEGIN EXCLUSIVE")
        with refused("unreachable-server"):
            mlflow_tracking.send(trained)
