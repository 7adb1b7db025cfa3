"""A whole dataset completed by a command: after kill -9 the same command goes on, and only new rows are generated later."""

import json
import os
import re
import signal
import sqlite3
import subprocess
import time
from pathlib import Path

import pytest
from conftest import command, environment, planned, snakemake

CONFIG = """
bases:
  tiny: {source: random, text: gsm8k, hidden_size: 32, layers: 2, heads: 2, vocab_size: 512}
datasets:
  gsm8k:
    path: examples/data/gsm8k_train.jsonl
    format: prompt_completion
    columns: {prompt: question, completion: answer}
    licence: mit
    limit: 48
    validation: 0.4
  asked: {path: asked.jsonl, format: prompts, licence: mit, max_dropped: 0.1}
runs:
  sft: {from: tiny, objective: sft, method: lora, data: gsm8k, max_steps: 1, rank: 4}
predictions: {max_new_tokens: 160}
tracking: {mlflow: false}
"""
ASKED = [{"prompt": f"How much is {i} and {i}?"} for i in range(70)]
TARGET = "results/tiny/predictions/asked.jsonl"


@pytest.fixture
def project(folder) -> Path:
    """A project with a dataset of prompts, of which one row has none."""
    (folder / "config.yaml").write_text(CONFIG)
    write(folder, [*ASKED, {"prompt": ""}])
    return folder


def write(folder: Path, rows: list[dict]) -> None:
    (folder / "asked.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def run(folder: Path, *targets: str, **options):
    return snakemake(folder, "--", *targets, config=folder / "config.yaml", **options)


def stored(folder: Path) -> int:
    """How many answers are remembered."""
    file = folder / "results/tiny/predictions/answers.sqlite"
    if not file.exists():
        return 0
    try:
        return sqlite3.connect(file).execute("SELECT count(*) FROM answers").fetchone()[0]
    except sqlite3.OperationalError:  # the table is just being made
        return 0


def lines(folder: Path, target: str = TARGET) -> list[dict]:
    return list(map(json.loads, (folder / target).read_text().splitlines()))


def kill_in_the_middle(folder: Path) -> int:
    """Kill -9 the job after its first batch; returns how many answers it has given."""
    started = subprocess.Popen(
        command(folder, "--", TARGET, config=folder / "config.yaml"),
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while not stored(folder):
        assert started.poll() is None
        time.sleep(0.01)
    lock = folder / "results/logs/predict/tiny/asked.log.lock"
    os.kill(int(re.match(r"process (\d+) ", lock.read_text())[1]), signal.SIGKILL)
    assert started.wait() != 0
    return stored(folder)


def test_the_same_command_goes_on_after_a_kill_and_new_rows_alone_are_generated_later(project):
    given = kill_in_the_middle(project)
    assert 0 < given < len(ASKED) and not (project / TARGET).exists()
    done = run(project, TARGET)
    assert f"71 rows: {len(ASKED) - given} answers generated, {given} known" in done.stdout, done.stdout
    first = lines(project)
    assert [row["place"] for row in first] == [f"asked.jsonl line {i}" for i in range(1, 72)]
    assert first[-1]["error"].startswith("the prompt is empty") and {row["finish"] for row in first[:-1]} <= {
        "stop",
        "length",
    }
    assert planned(project, TARGET, config=project / "config.yaml") == {}

    write(project, [{"prompt": "Is this new?"}, *reversed(ASKED)])
    assert "71 rows: 1 answers generated, 70 known" in run(project, TARGET).stdout
    assert [row["completion"] for row in lines(project)[1:]] == [row["completion"] for row in reversed(first[:-1])]


@pytest.mark.slow
def test_an_evaluations_answers_are_taken_over_and_two_processes_write_the_bytes_of_one(project):
    target = "results/sft/predictions/gsm8k.jsonl"
    suite = "evaluation: {max_new_tokens: 160, suites: {said: {kind: generation, data: gsm8k, limit: 19}}}\n"
    (project / "config.yaml").write_text(CONFIG + suite)
    assert run(project, "results/sft/eval.json").returncode == 0
    done = run(project, target)
    assert "48 rows: 29 answers generated, 19 known" in done.stdout, done.stdout
    one = (project / target).read_bytes()
    for left in [*project.glob("results/sft/predictions/answers*"), project / target]:
        left.unlink()
    (project / "results/sft/eval/answers.jsonl").unlink()
    two = ("--config", "hardware={processes: 2}", "--", target)
    done = snakemake(project, *two, config=project / "config.yaml")
    assert "48 answers generated" in done.stdout and (project / target).read_bytes() == one, done.stdout
