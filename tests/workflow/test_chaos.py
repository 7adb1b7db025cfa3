"""A short run of bench/chaos.py: killed at random moments, the same command goes on, and all bits are the same."""

import sys
from pathlib import Path

import pytest
import yaml
from conftest import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "bench"))

import chaos


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """A project of one run, which saves as often as it may."""
    file = chaos.make_project(tmp_path_factory.mktemp("chaos") / "peace")
    config = yaml.safe_load(file.read_text())
    config["runs"] = {"sft": config["runs"]["sft"] | {"max_steps": 300}}
    config["datasets"] = {"gsm8k": config["datasets"]["gsm8k"]}
    file.write_text(yaml.safe_dump(config))
    return file


@pytest.mark.slow
def test_after_five_kills_all_bits_are_those_of_a_project_left_in_peace(project):
    tally = chaos.storm(project, ["results/sft/merge.json"], kills=5, seed=4)
    assert sum(tally.kinds.values()) == 5
    assert tally.mismatches == []
    assert max(tally.lost_politely, default=0) <= 1
