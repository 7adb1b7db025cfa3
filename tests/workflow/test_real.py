"""The example roads on the real model: `make test-slow`. They take an hour on two slow cores, and write into results/."""

import json

import pytest
from conftest import REPOSITORY, snakemake

ROADS = {
    "beginner": ("sft_qlora", "dpo_lora"),
    "rlhf": ("reward_lora", "ppo_lora"),
    "rto": ("rto_lora",),
    "mixed": ("ppo_hard",),
}


@pytest.mark.slow
@pytest.mark.parametrize("road", ROADS)
def test_a_road_ends_in_an_evaluated_model(road):
    targets = [f"results/{name}/eval.json" for name in ROADS[road]]
    run = snakemake(REPOSITORY, *targets, config=REPOSITORY / f"config/examples/{road}.yaml")
    assert run.returncode == 0, run.stdout
    for target in targets:
        assert json.loads((REPOSITORY / target).read_text())["metrics"]
