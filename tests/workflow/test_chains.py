"""Stages in every sensible order, through `snakemake`: RLHF, RTO and mixed preference optimisation on a random tiny model."""

import json
import shutil
from pathlib import Path

import pytest
from conftest import REPOSITORY, snakemake

CHAINS = REPOSITORY / "config/test/chains.yaml"
TARGETS = ("results/ppo/merge.json", "results/rto/trained", "results/mixed/trained", "results/reward/eval.json")


@pytest.fixture(scope="module")
def chains(tmp_path_factory) -> Path:
    """A folder in which the three chains are built."""
    folder = tmp_path_factory.mktemp("chains")
    shutil.copytree(REPOSITORY / "examples", folder / "examples")
    run = snakemake(folder, *TARGETS, config=CHAINS)
    assert run.returncode == 0, run.stdout
    return folder


def read(file: Path) -> dict:
    return json.loads(file.read_text())


@pytest.mark.parametrize(("name", "parent"), [("ppo", "sft"), ("rto", "sft"), ("mixed", "dpo_easy")])
def test_ppo_starts_at_its_reference_and_earns_a_reward(chains, name, parent):
    assert read(chains / f"results/{name}/spec.json")["from"]["name"] == parent
    steps = [json.loads(line) for line in (chains / f"results/{name}/train.jsonl").read_text().splitlines()]
    assert steps[0]["kl"] == 0 and steps[0]["reward"] != 0
    assert any(step["kl"] != 0 for step in steps)


def test_the_easy_and_the_hard_part_are_the_whole(chains):
    parts = [read(chains / f"results/data/{part}/data.json") for part in ("easy", "hard")]
    whole = read(chains / "results/data/gsm8k_pairs/data.json")
    assert all(part["train"] for part in parts)
    assert sum(part["train"] for part in parts) == whole["train"]


def test_a_reward_model_is_measured_on_pairs_and_proved(chains):
    metrics = read(chains / "results/reward/eval.json")["metrics"]
    assert set(metrics) == {"reward_accuracy"} and metrics["reward_accuracy"]["n"] == 4
    assert read(chains / "results/reward/merge.json")["max_abs_logit_difference"] < 1e-4


def test_the_model_that_ppo_made_loads(chains):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(chains / "results/ppo/model")
    assert model.config.vocab_size == 512
