"""Every rule asks a scheduler for something, and the profiles agree."""

import re

import pytest
import yaml
from conftest import REPOSITORY

from posttrain.workflow import resources

TEXT = "".join(file.read_text() for file in (REPOSITORY / "rules").glob("*.smk"))
# Text or a link, a page, a summary: they take a second.
HERE = {"spec", "context", "alias", "rating_page", "ratings"}
RULES = dict(re.findall(r"^ *rule ?(\w*):\n(.*?)(?=^ *rule|\Z)", TEXT, re.M | re.S))


def profile(name: str) -> dict:
    return yaml.safe_load((REPOSITORY / f"profiles/{name}/config.yaml").read_text())


@pytest.mark.parametrize("rule", sorted(RULES.keys() - HERE))
def test_a_job_asks_for_memory_and_time(rule):
    assert "mem_mb=job_memory" in RULES[rule] and "runtime=job_minutes" in RULES[rule]
    assert not rule or rule in resources.NEEDS


def test_only_what_needs_the_internet_and_what_takes_a_second_runs_where_the_command_does():
    local = re.findall(r"^localrules:\n((?: +\w+,\n)+)", TEXT, re.M)  # those that always are; not indented
    names = {name for block in local for name in re.findall(r"\w+", block)}
    of_storage = set(re.findall(r"^if STORAGE:.*\n+    localrules:\n +(\w+),\n", TEXT, re.M))
    assert of_storage == {"data", "base_here"}  # a storage does not have the user's files
    assert names == HERE - {"alias"} | {"base", "data_online"}


def test_the_slurm_profile_differs_where_it_has_to():
    default, slurm = profile("default"), profile("slurm")
    assert {key for key in default if slurm.get(key) != default[key]} == {"cores", "resources"}
    assert slurm["cores"] == slurm["max-threads"]
