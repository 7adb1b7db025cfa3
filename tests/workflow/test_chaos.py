"""A short run of bench/chaos.py: killed at random moments, the same command goes on, and all bits are the same."""

import json
import sys
from pathlib import Path

import pytest
import yaml
from conftest import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "bench"))

import chaos


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """A project of one run, which saves as often as it may and logs to MLflow."""
    file = chaos.make_project(tmp_path_factory.mktemp("chaos") / "peace")
    config = yaml.safe_load(file.read_text())
    config["runs"] = {"sft": config["runs"]["sft"] | {"max_steps": 300}}
    config["datasets"] = {"gsm8k": config["datasets"]["gsm8k"]}
    config["tracking"] |= {"mlflow": True, "system_metrics": False}
    file.write_text(yaml.safe_dump(config))
    return file


def test_after_five_kills_all_bits_are_those_of_a_project_left_in_peace(project, monkeypatch):
    monkeypatch.setattr(chaos.shutil, "rmtree", lambda folder: kept.append(folder))
    kept: list[Path] = []
    tally = chaos.storm(project, ["results/sft/merge.json"], kills=5, seed=4)
    assert sum(tally.kinds.values()) == 5
    assert tally.mismatches == []
    assert max(tally.lost_politely, default=0) <= 1
    check_mlflow(kept[-1])


def check_mlflow(folder: Path) -> None:
    """One MLflow run, in which each step is logged once, as in train.jsonl."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder}/results/mlflow.db")
    (experiment,) = [item for item in client.search_experiments() if item.name == "posttrain"]
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    lines = [json.loads(line) for line in (folder / "results/sft/train.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 301))
    for metric in ("loss", "learning_rate", "grad_norm"):
        logged = {point.step: point.value for point in client.get_metric_history(run.info.run_id, metric)}
        assert logged == {line["step"]: line[metric] for line in lines}
