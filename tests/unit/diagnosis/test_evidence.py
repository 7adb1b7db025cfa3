"""The files of a run in each of its states, and the run to try next."""

import fcntl
import json
from pathlib import Path

import pytest
import yaml

from posttrain.diagnosis import doctor, evidence, next_runs
from posttrain.diagnosis.findings import Finding
from posttrain.workflow.project import Project

from .made import SPEC, falling

REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.fixture
def run(tmp_path):
    """The folder of a run of which nothing is there yet but its spec."""
    folder = tmp_path / "results/sft"
    write(folder / "spec.json", SPEC)
    return folder


def write(file, value):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(value))


def train(folder, losses):
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"step": i + 1, "loss": loss, "learning_rate": 1e-4}) for i, loss in enumerate(losses)]
    (folder / "train.jsonl").write_text("\n".join(lines) + '\n{"step": 99, "lo')  # the last line is being written


def log(run, rule, text):
    file = run.parent / "logs" / rule / f"{run.name}.log"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def test_a_run_that_was_not_begun(run):
    found = evidence.read(run)
    assert found.state == "not begun" and "train.jsonl" in found.missing and doctor.examine(found) == []


def test_an_interrupted_run_and_one_in_progress(run):
    train(run / "checkpoints/0123", falling(20))
    assert evidence.read(run).state == "interrupted"
    with Path(f"{log(run, 'sft', '')}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        found = evidence.read(run)
    assert found.state == "in progress" and len(found.steps) == 20


def test_a_failed_run(run):
    train(run / "checkpoints/0123", falling(20))
    log(
        run,
        "sft",
        "Loading weights\n{'loss': '1.9'}\nposttrain: sft: the loss is nan at step 21; write a lower learning_rate\n",
    )
    (finding,) = doctor.diagnose(run)
    assert evidence.read(run).state == "failed"
    assert finding.code == "diverged" and finding.sentence.startswith("sft: the loss is nan at step 21")


def test_a_traceback(run):
    log(run, "sft", "Traceback (most recent call last):\n  File x\nValueError: it does not fit\n")
    (finding,) = doctor.diagnose(run)
    assert finding.code == "failed" and "ValueError: it does not fit" in finding.sentence


def test_a_run_that_the_preflight_refused(run):
    log(
        run,
        "preflight",
        "posttrain: sft: it is not trained:\nstop_token: 9 of the rows ...\nwrite `allow: [stop_token]`\n",
    )
    check = {"name": "stop_token", "result": "error", "message": "9 of the rows have no stop; set `eos_token:`"}
    write(run.parent / "logs/preflight/sft.json", {"passed": False, "checks": [check]})
    (finding,) = doctor.diagnose(run)
    assert finding.code == "stop-token-not-learnt" and "preflight, stop_token: error" in finding.sentence


def test_attempts_of_a_training_that_ran_out_of_memory(run):
    train(run / "checkpoints/0123", falling(20))
    write(run / "checkpoints/0123/attempts.json", [{"micro_batch": 8, "accumulation": 1, "why": "CUDA out of memory"}])
    (finding,) = doctor.diagnose(run)
    assert finding.code == "out-of-memory"


PROJECT = Project(yaml.safe_load((REPOSITORY / "config/config.yaml").read_text()), "config/config.yaml", REPOSITORY)


@pytest.mark.parametrize(
    ("run", "changes", "target"),
    [
        ("sft_lora", ({"learning_rate": 1e-4},), "sft_lora,learning_rate=0.0001"),
        ("sft_lora,learning_rate=0.02", ({"learning_rate": 4e-3},), "sft_lora,learning_rate=0.004"),
        ("dpo_lora", ({"beta": 0.3},), "dpo_lora,beta=0.3"),
        ("sft_lora", ({"beta": 0.3}, {"gradient_accumulation_steps": 4}), "sft_lora,accumulation=4"),  # sft has no beta
        ("sft_lora", ({"epochs": 2}, {"keep": "best"}), "sft_lora,keep=best"),  # it has two epochs
        ("dpo_lora", ({"loss_type": ["sigmoid"], "loss_weights": [1]},), "dpo_lora,loss_type=sigmoid+,loss_weights=1+"),
    ],
)
def test_the_run_to_try_next_is_the_first_that_the_configuration_accepts(run, changes, target):
    found = next_runs.with_target(PROJECT, run, Finding("flat-loss", "", changes=changes))
    assert found.target == f"results/{target}/eval.json"
    assert PROJECT.check_targets([found.target]) in ([], None)


def test_a_change_that_no_override_makes_has_no_target():
    assert next_runs.with_target(PROJECT, "sft_lora", Finding("too-little-data", "")).target == ""
