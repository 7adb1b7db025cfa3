"""The section `hardware`: what is refused when the configuration is read, and that no spec knows it."""

import pytest
from conftest import refused

from posttrain.workflow.project import Project

BATCH = {"runs.sft.batch_size": 8, "runs.dpo.batch_size": 8, "runs.follow.batch_size": 8, "runs.full.batch_size": 8}


def test_no_spec_knows_the_hardware(configuration):
    alone = Project(configuration(BATCH))
    several = Project(configuration(BATCH | {"hardware": {"processes": 4}}))
    assert [several.spec(run) for run in alone.config.runs] == [alone.spec(run) for run in alone.config.runs]
    assert (alone.config.hardware.name, several.config.hardware.name) == ("single", "ddp")


@pytest.mark.parametrize(
    ("table", "place"),
    [
        ({"processes": 2, "strategy": "single"}, "hardware.strategy"),
        ({"strategy": "ddp"}, "hardware.strategy"),
        ({"processes": 1, "strategy": "fsdp"}, "hardware.strategy"),
    ],
)
def test_a_strategy_that_does_not_fit_the_processes_is_refused(configuration, table, place):
    with refused("conflicting-keys", place):
        Project(configuration({"hardware": table}))


def test_a_batch_that_does_not_divide_is_refused_of_a_target_too(configuration):
    with refused("wrong-strategy", "runs.sft"):
        Project(configuration(BATCH | {"hardware": {"processes": 4}, "runs.sft.batch_size": 6}))
    project = Project(configuration(BATCH | {"hardware": {"processes": 4}}))
    with refused("wrong-strategy", "results/sft,batch_size=6"):
        project.spec("sft,batch_size=6")


def test_kto_needs_two_rows_in_each_process(configuration):
    runs = {"kto": {"from": "base", "objective": "kto", "data": "pairs", "batch_size": 4}}
    Project(configuration({"runs": runs, "sweeps": {}, "hardware": {"processes": 2}}))
    with refused("wrong-strategy", "runs.kto"):
        Project(configuration({"runs": runs, "sweeps": {}, "hardware": {"processes": 4}}))
