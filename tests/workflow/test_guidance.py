"""A newcomer's first steps: `posttrain init`, `posttrain recommend`, and the commands that they print, on a random tiny model."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_bases
import yaml
from conftest import REPOSITORY, SIDE_BY_SIDE, environment

from posttrain.provenance import dry_run

MINE = "config/mine.yaml"
TOOLS = Path(sys.executable).parent


def run(folder: Path, *command: str) -> str:
    found = subprocess.run(
        command, cwd=folder, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert found.returncode == 0, found.stdout
    return found.stdout


def posttrain(folder: Path, *arguments: str) -> str:
    return run(folder, sys.executable, "-m", "posttrain.cli", *arguments)


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """A new project."""
    folder = tmp_path_factory.mktemp("new")
    posttrain(folder, "init")
    return folder


@pytest.fixture(scope="module")
def recommended(project) -> Path:
    """The same with a recommendation for a tiny model."""
    folder = project
    tiny_bases.save(folder / "base", tiny_bases.chatml(), max_position_embeddings=512)
    question = "--gpu-memory 0 --model base --purpose production --examples 300 --preferences 500 --output"
    posttrain(folder, "recommend", *question.split(), MINE)
    return folder


def test_what_init_prints_is_planned_in_its_folder(project):
    jobs = dry_run.planned(
        "--directory", project, "--snakefile", project / "Snakefile", "--", "results/dpo_lora/eval.json"
    )
    assert {"base", "sft", "dpo", "merge", "eval"} <= {job.rule for job in jobs}


@pytest.mark.slow
def test_a_recommended_configuration_runs_and_both_ways_to_the_workflow_are_one(recommended):
    project = recommended
    values = yaml.safe_load((project / MINE).read_text())
    values["evaluation"] |= {"limit": 4, "max_new_tokens": 4, "answers": 0}
    values["evaluation"]["suites"]["few_shot"]["limit"] = 4
    for stage in values["runs"].values():  # the rest is as it was recommended
        stage |= {"epochs": 1}
    (project / MINE).write_text(yaml.safe_dump(values))
    command = [
        str(TOOLS / "snakemake"),
        *SIDE_BY_SIDE,
        "--configfile",
        MINE,
        "--cores",
        "2",
        "results/dpo_lora/eval.json",
    ]
    run(project, *command)
    metrics = json.loads((project / "results/dpo_lora/eval.json").read_text())["metrics"]
    assert {"perplexity", "preference_accuracy", "few_shot/rougeL"} <= metrics.keys()
    spec = json.loads((project / "results/dpo_lora/spec.json").read_text())
    assert (spec["rank"], spec["max_length"], spec["batch_size"]) == (8, 512, 4)
    assert "Nothing to be done" in run(project, *command, "-s", f"{REPOSITORY}/Snakefile")
