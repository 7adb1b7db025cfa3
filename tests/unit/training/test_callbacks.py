"""The callbacks of every training: signals, checkpoints, numbers that are not finite, the log."""

import json
import math
import os
import signal

import pytest
import torch
from conftest import refused
from transformers import TrainerControl, TrainerState

from posttrain.runtime import script
from posttrain.training import callbacks
from posttrain.training.results import history


@pytest.fixture
def stop(signals) -> callbacks.StopOnSignal:
    """What stops a training on a signal; the tests' own handlers come back."""
    return callbacks.StopOnSignal("sft")


@pytest.fixture
def save(tmp_path, monkeypatch):
    """What saves a checkpoint every `seconds`."""

    def make(seconds: float = 3600) -> callbacks.SaveCheckpoints:
        monkeypatch.setenv("POSTTRAIN_TRACKING", json.dumps({"mlflow": False, "checkpoint_seconds": seconds}))
        return callbacks.SaveCheckpoints(tmp_path)

    return make


def step(*callbacks, number: int = 1, last: int = 3) -> TrainerControl:
    """What the callbacks decide after a step."""
    control = TrainerControl()
    for callback in callbacks:
        callback.on_step_end(None, TrainerState(global_step=number, max_steps=last), control)
    return control


@pytest.mark.parametrize("number", script.SIGNALS)
def test_a_signal_saves_and_stops_after_the_step_and_the_second_one_kills(stop, number):
    assert not step(stop).should_save
    os.kill(os.getpid(), number)
    assert stop.signal == number
    control = step(stop)
    assert (control.should_save, control.should_training_stop) == (True, True)
    assert signal.getsignal(number) == signal.SIG_DFL
    with pytest.raises(SystemExit) as end:
        stop.leave()
    assert end.value.code == 128 + number


def test_before_the_first_step_a_signal_ends_the_stage_at_once(stop):
    script.on_signals(script.end_at_once)
    stop.on_train_begin(None, TrainerState(), TrainerControl())
    with pytest.raises(SystemExit) as end:
        os.kill(os.getpid(), signal.SIGTERM)
    assert end.value.code == 143


def test_a_signal_while_a_checkpoint_is_written_stops_after_it(stop, save, tmp_path):
    saves = save(0)
    control = step(stop, saves)
    assert (control.should_save, control.should_training_stop) == (True, False)
    os.kill(os.getpid(), signal.SIGUSR1)
    (tmp_path / "checkpoint-1").mkdir()
    control = TrainerControl()
    for callback in (stop, saves):
        callback.on_save(None, TrainerState(global_step=1, max_steps=3), control)
    assert control.should_training_stop
    assert (tmp_path / "checkpoint-1/SHA256SUMS").exists()


def test_a_signal_after_the_last_step_waits_for_the_result(stop):
    step(stop, number=3)
    os.kill(os.getpid(), signal.SIGTERM)
    stop.leave()
    assert stop.has_ended


def test_a_signal_that_is_ignored_stays_so(stop):
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    step(stop)
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN


def test_after_a_training_that_failed_a_signal_ends_at_once_again(stop):
    step(stop)
    stop.leave()
    assert signal.getsignal(signal.SIGTERM) == script.end_at_once


def test_nothing_is_saved_after_the_last_step(stop, save):
    saves = save(0)
    assert step(stop, saves, number=2).should_save
    assert not step(stop, saves, number=3).should_save


def test_a_checkpoint_is_due_after_its_seconds_and_saving_stays_below_a_twentieth(save):
    saves = save(10)
    assert not step(saves).should_save
    saves.saved -= 11
    assert step(saves).should_save
    saves.last_took = 1.0  # a slow disk: 20 seconds apart at least
    assert not step(saves).should_save
    saves.saved -= 10
    assert step(saves).should_save


ROWS = ["a.csv:1", "a.csv:7"]


def log(folder, model=None, save: bool = False, number: int = 1, rows=ROWS, **numbers) -> None:
    state = TrainerState(global_step=number, max_steps=3, log_history=[{"step": number, **numbers}])
    for callback in (callbacks.RefuseNonFinite("sft", lambda step: rows), callbacks.LogSteps("sft", folder)):
        callback.on_log(None, state, TrainerControl(should_save=save), logs=numbers, model=model)


NOT_FINITE = [
    ({"loss": math.nan}, "the loss is nan at step 1 on the rows a.csv:1, a.csv:7"),
    ({"loss": math.inf, "grad_norm": math.nan}, "the loss is inf and the gradient's norm is nan at step 1"),
    ({"loss": 1.0, "grad_norm": math.inf}, "the gradient's norm is inf at step 1"),
]


@pytest.mark.parametrize(("numbers", "problem"), NOT_FINITE)
def test_a_loss_or_gradient_that_is_not_finite_stops_the_run(tmp_path, numbers, problem):
    with refused("not-finite", "sft") as error:
        log(tmp_path, **numbers)
    assert error.value.problem.startswith(problem)


def test_at_most_eight_rows_are_named(tmp_path):
    with refused("not-finite", "sft") as error:
        log(tmp_path, loss=math.nan, rows=[f"a.csv:{i}" for i in range(10)])
    assert error.value.problem.endswith("a.csv:7 and 2 more")


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_weights_that_are_not_finite_are_not_saved(tmp_path, number):
    model = torch.nn.Linear(2, 2)
    log(tmp_path, model, save=True, loss=1.0)
    model.bias.data[1] = number
    log(tmp_path, model, loss=1.0)  # the next step's loss tells it
    with refused("not-finite", "sft"):
        log(tmp_path, model, save=True, loss=1.0)
    with refused("not-finite", "sft"):
        log(tmp_path, model, number=3, loss=1.0)


def test_each_logged_step_is_a_line_of_train_jsonl(tmp_path):
    log(tmp_path, loss=1.5, grad_norm=0.5, num_tokens=100)
    line = json.loads((tmp_path / "train.jsonl").read_text())
    assert (line["step"], line["loss"], line["num_tokens"]) == (1, 1.5, 100)
    assert line["memory_gib"] > 0
    assert line["seconds"] >= 0 and 0 <= line["cpu_percent"] <= 100


def test_the_seconds_continue_where_a_killed_stage_stood(tmp_path):
    logs = callbacks.LogSteps("sft", tmp_path)
    state = TrainerState(global_step=5, log_history=[{"step": 5, "loss": 1.0, "seconds": 70.0}])
    logs.on_train_begin(None, state, None)
    assert logs.seconds_before == 70.0


def test_the_history_keeps_the_steps_and_what_is_reported():
    lines = [
        {"step": 1, "loss": 2.0, "learning_rate": 0.1, "epoch": 0.5, "entropy": 0.0, "tokens_per_second": None},
        {"step": 1, "eval_loss": 1.9, "epoch": 0.5},
        {"step": 2, "loss": 0.0, "rewards/margins": 0.25, "memory_gib": 1.5, "entropy": 3.0},
        {"step": 2, "train_runtime": 9.0, "train_loss": 1.0},
    ]
    assert history(lines) == [
        {"step": 1, "loss": 2.0, "learning_rate": 0.1},
        {"step": 1, "eval_loss": 1.9},
        {"step": 2, "loss": 0.0, "rewards/margins": 0.25, "memory_gib": 1.5, "entropy": 3.0},
    ]
