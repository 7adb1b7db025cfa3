"""`posttrain doctor` as a command: what it prints for people and for programs, and its exit status."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]
SPEC = {
    "objective": "sft", "method": "lora", "from": {"name": "smollm2"}, "data": {"name": "snips"}, "learning_rate": 0.5, "epochs": 2.0,
    "max_steps": None, "batch_size": 4, "accumulation": 1, "max_length": 1024, "warmup": 0.1, "schedule": "cosine", "max_grad_norm": 1.0,
    "gradient_checkpointing": False, "loss_type": "nll",
}  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    """A project with two interrupted runs, of which one gets worse."""
    (tmp_path / "config").mkdir()
    (tmp_path / "config/config.yaml").write_text((REPOSITORY / "config/config.yaml").read_text())
    (tmp_path / "examples").symlink_to(REPOSITORY / "examples")
    for name, losses in {
        "sft_lora": [2 / (1 + i) for i in range(30)],
        "sft_lora,learning_rate=0.5": range(2, 32),
    }.items():
        run = tmp_path / "results" / name
        (run / "checkpoints/0123").mkdir(parents=True)
        (run / "spec.json").write_text(json.dumps(SPEC))
        lines = [{"step": i + 1, "loss": loss, "learning_rate": 0.1} for i, loss in enumerate(losses)]
        (run / "checkpoints/0123/train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path


def doctor(folder, *options):
    command = [sys.executable, "-m", "posttrain.cli", "doctor", *options]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY / "scripts")}
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment)


def test_findings_are_printed_with_the_run_to_try_and_are_an_exit_status(folder):
    run = doctor(folder, "sft_lora", "results/sft_lora,learning_rate=0.5/eval.json")
    assert run.returncode == 1, run.stderr
    healthy, sick = run.stdout.split("\nsft_lora,")
    assert healthy.startswith("sft_lora: interrupted, 30 steps: no findings\n")
    assert "learning-rate-too-high (unstable training)" in sick and "loss 2 ▁" in sick
    assert "try: snakemake --cores 1 results/sft_lora,learning_rate=0.1/eval.json" in sick
    (page,) = re.findall("read: (.*)#learning-rate-too-high", sick)
    assert Path(page).is_file()


def test_a_program_reads_one_object(folder):
    run = doctor(folder, "sft_lora,learning_rate=0.5", "--json")
    (found,) = json.loads(run.stdout)["runs"]
    (finding,) = found["findings"]
    assert (found["run"], found["state"], found["steps"]) == ("sft_lora,learning_rate=0.5", "interrupted", 30)
    assert (finding["code"], finding["change"]) == ("learning-rate-too-high", {"learning_rate": 0.1})
    assert finding["target"] == "results/sft_lora,learning_rate=0.1/eval.json"
    assert run.returncode == 1 and "eval.json" in found["not_looked_at"]


@pytest.mark.parametrize(
    ("target", "sentence"),
    [
        ("dpo_lora", "nothing of its training is there yet; run: snakemake"),
        ("smollm2", "it is a base"),
        ("nobody", "there is no run"),
    ],
)
def test_what_cannot_be_looked_at_is_said_in_a_sentence(folder, target, sentence):
    run = doctor(folder, target)
    assert run.returncode == 1 and sentence in run.stderr and not run.stdout
