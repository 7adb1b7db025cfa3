"""A cluster's partitions, as `sinfo` has them."""

import os

import pytest
from conftest import refused

from posttrain.workflow import partitions
from posttrain.workflow.partitions import Partition


@pytest.fixture
def sinfo(tmp_path, monkeypatch):
    """A cluster whose `sinfo` prints these lines."""
    program = tmp_path / "sinfo"
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.delenv(partitions.VARIABLE, raising=False)

    def answer(text, status=0):
        program.write_text(f"#!/bin/sh\ncat <<'END'\n{text}\nEND\nexit {status}\n")
        program.chmod(0o755)

    yield answer
    os.environ.pop(partitions.VARIABLE, None)


def test_limits_and_gpus_are_read(sinfo):
    sinfo("cpu*|1-00:00:00|(null)\ngpu|infinite|(null)\ngpu|infinite|gpu:h100:8(S:0-1)")
    cpu = Partition(1440, False)
    assert partitions.ask() == {"cpu": cpu, "": cpu, "gpu": Partition(None, True)}


def test_a_job_knows_what_the_command_knew(sinfo):
    sinfo("cpu*|1-00:00:00|(null)")
    before = partitions.ask()
    sinfo("other|30:00|(null)")
    assert partitions.ask() == before


@pytest.mark.parametrize(
    ("limit", "minutes"), [("30:00", 30), ("2:30:00", 150), ("1-02:30:00", 1590), ("infinite", None), ("n/a", None)]
)
def test_time_limits(limit, minutes):
    assert partitions.minutes(limit) == minutes


@pytest.mark.parametrize(
    ("names", "account", "no_account", "code"),
    [
        (["cpu", "gpus"], "me", False, "unknown-partition"),
        ([""], "me", False, "unknown-partition"),
        (["cpu"], "", False, "no-account"),
    ],
)
def test_what_slurm_would_refuse_is_refused(sinfo, names, account, no_account, code):
    sinfo("cpu|1-00:00:00|(null)")
    with refused(code):
        partitions.check(names, account, no_account)


def test_what_slurm_would_take_is_taken(sinfo):
    sinfo("cpu*|1-00:00:00|(null)")
    partitions.check(["", "cpu"], "me", False)
    partitions.check(["cpu"], "", True)


def test_a_silent_slurm_is_told(sinfo):
    sinfo("", 1)
    with refused("slurm-silent"):
        partitions.ask()
