"""Killed in every way, the same plain command goes on and ends with the same bits, in one MLflow run."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import yaml
from conftest import REPOSITORY, TINY, command, environment, snakemake

RUN = "sft_lora,max_steps=400"
TARGET = f"results/{RUN}/train.json"


@pytest.fixture(scope="module")
def start(tmp_path_factory) -> tuple[Path, Path]:
    """A folder with base and tokens, and a configuration that saves as often as it can."""
    folder = tmp_path_factory.mktemp("resume")
    shutil.copytree(REPOSITORY / "examples", folder / "examples")
    config = yaml.safe_load(TINY.read_text())
    config["tracking"] = {"mlflow": True, "system_metrics": False, "checkpoint_seconds": 0}
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump(config))
    run = snakemake(folder, "results/tokens/tiny/gsm8k,max_length=1024/report.json", config=file)
    assert run.returncode == 0, run.stdout
    return folder, file


def copy(start: tuple[Path, Path], folder: Path) -> tuple[Path, Path]:
    shutil.copytree(start[0], folder, dirs_exist_ok=True)
    return folder, folder / "config.yaml"


def weights(folder: Path) -> str:
    return hashlib.sha256((folder / f"results/{RUN}/trained/adapter_model.safetensors").read_bytes()).hexdigest()


def run_until(folder: Path, config: Path, step: int) -> subprocess.Popen:
    """Start the command in a process group of its own, and return when a checkpoint of at least `step` is there."""
    process = subprocess.Popen(
        command(folder, TARGET, config=config),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment(),
        start_new_session=True,
    )
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline and process.poll() is None:
        states = (folder / f"results/{RUN}/checkpoints").glob("*/checkpoint-*/SHA256SUMS")
        if any(int(state.parent.name.split("-")[1]) >= step for state in list(states)):
            return process
        time.sleep(0.02)
    process.kill()
    raise AssertionError(f"no checkpoint at step {step}; exit status {process.returncode}")


def trainers(folder: Path) -> list[int]:
    """Process ids of the training scripts at work in a folder."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if (
                entry.name.isdigit()
                and b"train_sft.py" in (entry / "cmdline").read_bytes()
                and (entry / "cwd").readlink() == folder
            ):
                found.append(int(entry.name))
        except (FileNotFoundError, PermissionError, ProcessLookupError):
            continue
    return found


def test_killed_four_times_it_ends_with_the_same_bits(start, tmp_path):
    straight, config = copy(start, tmp_path / "straight")
    run = snakemake(straight, TARGET, config=config)
    assert run.returncode == 0, run.stdout

    killed, config = copy(start, tmp_path / "killed")
    process = run_until(killed, config, 5)  # kill -9 of the training process alone
    for pid in trainers(killed):
        os.kill(pid, signal.SIGKILL)
    assert process.wait(60) != 0
    process = run_until(killed, config, 60)  # kill -9 of everything
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(60)
    process = run_until(killed, config, 130)  # Ctrl-C: SIGINT to the group
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(60) != 0
    process = run_until(killed, config, 200)  # kill -9 of Snakemake alone: the orphan trains on, and is waited for
    process.kill()
    process.wait(60)

    run = snakemake(killed, TARGET, config=config)
    assert run.returncode == 0, run.stdout
    assert weights(killed) == weights(straight)
    assert not trainers(killed)
    check_mlflow(killed)


def check_mlflow(folder: Path) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder}/results/mlflow.db")
    (experiment,) = [item for item in client.search_experiments() if item.name == "posttrain"]
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    lines = [json.loads(line) for line in (folder / f"results/{RUN}/train.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 401))
    for metric in ("loss", "learning_rate", "grad_norm"):
        logged = {point.step: point.value for point in client.get_metric_history(run.info.run_id, metric)}
        assert logged == {line["step"]: line[metric] for line in lines}


def test_sigterm_saves_and_stops(start, tmp_path):
    """What a scheduler does on cancel: the stage saves, and its exit status says which signal it was."""
    folder, config = copy(start, tmp_path / "folder")
    process = run_until(folder, config, 3)
    before = max(int(p.name.split("-")[1]) for p in folder.glob(f"results/{RUN}/checkpoints/*/checkpoint-*"))
    os.killpg(process.pid, signal.SIGTERM)
    assert process.wait(60) != 0
    after = max(int(p.name.split("-")[1]) for p in folder.glob(f"results/{RUN}/checkpoints/*/checkpoint-*"))
    assert after >= before
    assert not (folder / TARGET).exists()
    assert not trainers(folder)
