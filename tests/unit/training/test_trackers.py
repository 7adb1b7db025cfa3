"""Trackers beside MLflow: they are told each step once, whatever is killed, and training never waits for them."""

# ruff: noqa: F811  (fixtures of another file's)

import json
from pathlib import Path

import pytest
from conftest import refused
from transformers import TrainerCallback

import train_sft
from posttrain.config import library_refusals
from posttrain.runtime import atomic, hashes
from posttrain.training import callbacks, checkpoints, trackers
from posttrain.workflow.project import Project
from unit.scripts.test_train import train  # noqa: F401  (a fixture)

pytestmark = pytest.mark.usefixtures("in_folder", "signals", "fp32")


class Killed(Exception):
    """What stands for kill -9 here: nothing of ours handles it."""


@pytest.fixture
def watched(train, chats, monkeypatch):
    """Train six steps, watched by a tracker; killed after a step, the checkpoint is of step 2. Returns train.jsonl's lines."""

    def run(tracker: str | None, killed_at: int | None = None) -> list[dict]:
        also = {"also": [tracker] if tracker else [], "experiment": "fruit", "mlflow": False, "checkpoint_seconds": 1e9}
        table = {"from": "base", "objective": "sft", "data": "chats", "batch_size": 2, "max_steps": 6}
        with monkeypatch.context() as only:
            only.setenv("POSTTRAIN_TRACKING", json.dumps(also))
            if killed_at:
                only.setattr(callbacks.SaveCheckpoints, "on_step_end", save_at_2)
                only.setattr(callbacks.SaveCheckpoints, "on_save", seal)
                only.setattr(
                    callbacks.LogSteps, "on_log", lambda self, args, state, control, **_: die(state, killed_at)
                )
                with pytest.raises(Killed):
                    train(train_sft, "own", chats, "messages", {"runs": {"own": table}, "sweeps": {}})
                return []
            train(train_sft, "own", chats, "messages", {"runs": {"own": table}, "sweeps": {}})
        return [json.loads(line) for line in Path("results/own/train.jsonl").read_text().splitlines()]

    return run


def save_at_2(self, args, state, control, **_):
    control.should_save = state.global_step == 2


def seal(self, args, state, control, **_):
    checkpoints.seal(self.folder / f"checkpoint-{state.global_step}")


def die(state, step: int) -> None:
    if state.global_step == step + 1:  # the trackers have the step before
        raise Killed


class Recorder(TrainerCallback):
    """A tracker that writes what it is told to a file."""

    def on_train_begin(self, args, state, control, **_):
        self.tell({"begins": args.run_name, "project": args.project})

    def on_log(self, args, state, control, logs=None, **_):
        self.tell({"step": state.global_step} | ({"loss": logs["loss"]} if "loss" in logs else {}))

    def tell(self, line: dict) -> None:
        with Path("told.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")


def test_a_resumed_stage_goes_on_in_the_same_run_and_sends_no_step_twice(watched, monkeypatch):
    monkeypatch.setitem(trackers.CALLBACKS, "trackio", Recorder)
    watched("trackio", killed_at=4)
    lines = watched("trackio")
    told = [json.loads(line) for line in Path("told.jsonl").read_text().splitlines()]
    assert [line["step"] for line in told if "loss" in line] == [1, 2, 3, 4, 5, 6]
    assert [line["loss"] for line in told if "loss" in line] == [line["loss"] for line in lines]
    begun = [line for line in told if "begins" in line]
    assert len(begun) == 2 and begun[0] == begun[1]
    assert begun[0]["begins"].startswith("own-") and begun[0]["project"] == "fruit"
    assert atomic.read_json(Path("results/own/train.json"))["resumed_from"] == "checkpoint-2"


@pytest.mark.parametrize("event", ["on_train_begin", "on_log", "on_train_end"])
def test_a_tracker_that_fails_is_said_once_and_changes_nothing(watched, monkeypatch, event):
    def fail(*_, **__):
        raise OSError("no route to host")

    said = []
    monkeypatch.setattr(trackers, "say", said.append)
    monkeypatch.setitem(trackers.CALLBACKS, "trackio", type("Failing", (Recorder,), {event: fail}))
    with_it, bits = watched("trackio"), hashes.folder_hashes(Path("results/own/trained"))
    assert said == [
        "own: trackio failed (no route to host); training goes on without it, and its numbers are in train.jsonl"
    ]
    for folder in ("checkpoints", "trained"):
        Path(f"results/own/{folder}").rename(f"{folder}-before")
    assert [line["loss"] for line in watched(None)] == [line["loss"] for line in with_it]
    assert hashes.folder_hashes(Path("results/own/trained")) == bits


def test_tensorboard_has_every_step_once_in_one_folder(watched):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    watched("tensorboard", killed_at=4)
    lines = watched("tensorboard")
    [folder] = Path("results/logs/tensorboard").iterdir()
    found = EventAccumulator(str(folder)).Reload().Scalars("train/loss")
    assert [(event.step, event.value) for event in found] == [
        (line["step"], pytest.approx(line["loss"], rel=1e-6)) for line in lines
    ]


def test_wandb_goes_on_in_one_run(watched, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    watched("wandb", killed_at=4)
    watched("wandb")
    folders = [folder.name for folder in Path("results/logs/wandb").glob("offline-run-*")]
    assert folders and len({name.rpartition("-")[2] for name in folders}) == 1


def test_wandb_does_not_ask_for_a_key(watched, monkeypatch):
    wandb = pytest.importorskip("wandb")
    said = []
    monkeypatch.setattr(trackers, "say", said.append)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setattr(wandb, "api", type("Nobody", (), {"api_key": None}))
    assert len(watched("wandb")) == 6
    assert [line.partition(";")[0] for line in said] == ["own: wandb failed (nobody is logged in"]


@pytest.mark.parametrize("tracker", library_refusals.TRACKERS)
def test_a_tracker_that_is_not_installed_is_refused_with_the_line_that_installs_it(tracker, configuration, monkeypatch):
    monkeypatch.setattr(library_refusals.importlib.util, "find_spec", lambda name: None)
    with refused("missing-package", "tracking.also") as error:
        Project(configuration({"tracking": {"also": [tracker]}}))
    assert error.value.hint == f"run: pip install {tracker}"


def test_a_folder_of_its_name_is_no_package(monkeypatch):
    Path("wandb").mkdir()
    monkeypatch.syspath_prepend(Path.cwd())
    monkeypatch.setattr(library_refusals, "TRACKERS", {"wandb": ("wandb_that_nobody_has",)})
    Path("wandb_that_nobody_has").mkdir()
    assert library_refusals.missing_tracker(["wandb"]).code == "missing-package"


def test_what_watches_a_run_is_in_no_spec(configuration, monkeypatch):
    monkeypatch.setattr(library_refusals, "missing_tracker", lambda names: None)
    watched = Project(configuration({"tracking": {"also": ["tensorboard", "wandb"]}}))
    assert watched.spec("sft") == Project(configuration()).spec("sft")
