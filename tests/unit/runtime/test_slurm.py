"""A training stage in a Slurm job; tests/slurm has the real one."""

import datetime
import os
import signal
import time

import pytest

from posttrain.runtime import slurm


@pytest.fixture
def job(tmp_path, monkeypatch):
    """A job of the workflow's: its end and its state as `squeue` says them, and what `scontrol` was asked."""
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv(slurm.VARIABLE, "100")
    asked = tmp_path / "asked"
    asked.touch()

    def says(seconds=None, state="RUNNING"):
        end = "N/A" if seconds is None else (datetime.datetime.now() + datetime.timedelta(seconds=seconds)).isoformat()
        for name, text in {
            "squeue": f'case "$*" in *%e*) echo {end[:19]};; *) echo {state};; esac',
            "scontrol": f'echo "$@" >> {asked}',
        }.items():
            (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
            (tmp_path / name).chmod(0o755)
        return asked

    return says


@pytest.fixture
def received(signals):
    """The signals that this process gets."""
    got = []
    signal.signal(signal.SIGUSR1, lambda number, _: got.append(number))
    return got


def test_a_signal_comes_before_the_limit(job, received):
    job(101.5)
    slurm.stop_before_limit()
    assert received == []
    time.sleep(2.5)
    assert received == [signal.SIGUSR1]


def test_a_signal_comes_at_once_where_little_is_left(job, received):
    job(50)
    slurm.stop_before_limit()
    assert received == [signal.SIGUSR1]


@pytest.mark.parametrize("outside", [slurm.VARIABLE, "SLURM_JOB_ID"])
def test_a_job_of_the_users_own_is_left_alone(job, received, monkeypatch, outside):
    asked = job(50)
    monkeypatch.delenv(outside)
    slurm.stop_before_limit()
    slurm.requeue()
    assert received == [] and asked.read_text() == ""


def test_a_job_without_a_limit_gets_no_signal(job, received):
    job(None)
    slurm.stop_before_limit()
    assert received == []


def test_only_a_running_job_is_started_again(job):
    asked = job(50, state="COMPLETING")
    slurm.requeue()
    assert asked.read_text() == ""
    job(50, state="RUNNING")
    slurm.requeue()
    assert asked.read_text() == f"requeue {os.environ['SLURM_JOB_ID']}\n"
