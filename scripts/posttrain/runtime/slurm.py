"""A training stage in a Slurm job: stop before the time limit, and have Slurm start the job again from the checkpoint.

`sbatch --signal` reaches neither the tasks of an array that Snakemake's plugin submits, which have no job step, nor, with `B:`,
what the batch shell runs. So the stage asks for its time limit and signals itself. The job is requeued, not submitted again: this
may happen as often as it takes, while a stage that fails ends as failed at once.
"""

import contextlib
import os
import signal
import subprocess
import threading
from datetime import datetime

from posttrain.runtime.console import say

# Seconds before the time limit at which training stops; the workflow sets it for the jobs that it sends to Slurm. In a job that
# a user has started, nothing here acts: requeueing it would start the user's own script again.
VARIABLE = "POSTTRAIN_STOP_SECONDS"
STOP_SECONDS = 120


def is_job() -> bool:
    """Whether this process runs in a Slurm job that the workflow has submitted."""
    return "SLURM_JOB_ID" in os.environ and VARIABLE in os.environ


def stop_before_limit() -> None:
    """Send this process SIGUSR1 in time before its job's limit; a limit that is raised meanwhile counts."""
    left = _seconds_left()
    if left is None:
        return
    wait = left - float(os.environ[VARIABLE])
    if wait <= 0:
        os.kill(os.getpid(), signal.SIGUSR1)
        return
    timer = threading.Timer(wait, stop_before_limit)
    timer.daemon = True
    timer.start()


def requeue() -> None:
    """Have Slurm start this job again, after a checkpoint; not where it was cancelled, which sends the same signal."""
    if _ask("%T") != "RUNNING":
        return
    say(f"Slurm starts job {os.environ['SLURM_JOB_ID']} again, which goes on from the checkpoint")
    subprocess.run(["scontrol", "requeue", os.environ["SLURM_JOB_ID"]], check=False)


def _seconds_left() -> float | None:
    """Until the job's time limit; None where it has none, or this is no job of the workflow's."""
    with contextlib.suppress(ValueError):  # NONE, N/A
        return (datetime.fromisoformat(_ask("%e")) - datetime.now()).total_seconds()
    return None


def _ask(field: str) -> str:
    """What Slurm says of this job; nothing where there is no such job, or no Slurm, as in a container."""
    if not is_job():
        return ""
    command = ["squeue", "--noheader", "--jobs", os.environ["SLURM_JOB_ID"], "--format", field]
    environment = os.environ | {"SLURM_TIME_FORMAT": "standard"}
    with contextlib.suppress(OSError):
        return subprocess.run(command, capture_output=True, text=True, env=environment, check=False).stdout.strip()
    return ""
