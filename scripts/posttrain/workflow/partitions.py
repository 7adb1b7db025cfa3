"""The partitions of a Slurm cluster, and whether a command may send its jobs to the ones that it names."""

import json
import os
import re
import subprocess
from typing import NamedTuple

from posttrain.runtime.errors import UserError

VARIABLE = "POSTTRAIN_PARTITIONS"  # so that a job knows what the command knew, and asks for the same


class Partition(NamedTuple):
    """A partition as `sinfo` has it."""

    minutes: int | None
    """the longest time limit; None without one"""
    gpus: bool
    """whether its nodes have some"""


def ask() -> dict[str, Partition]:
    """The partitions by their names, the default one also by the empty name.

    Raises:
        UserError: Slurm does not answer.
    """
    if VARIABLE not in os.environ:
        command = ["sinfo", "--noheader", "--format", "%P|%l|%G"]
        answer = subprocess.run(command, capture_output=True, text=True, check=False)
        if answer.returncode:
            last = answer.stderr.strip().rpartition("\n")[2]
            raise UserError("slurm-silent", "sinfo", f"Slurm does not answer: {last}", "try `sinfo`")
        found: dict[str, Partition] = {}
        for line in answer.stdout.splitlines():  # several for a partition with several kinds of nodes
            name, limit, resources = line.split("|")
            before = found.get(name.rstrip("*"))
            partition = Partition(minutes(limit), "gpu" in resources or bool(before and before.gpus))
            found |= dict.fromkeys([name.rstrip("*"), *[""] * name.endswith("*")], partition)
        os.environ[VARIABLE] = json.dumps(found)
    return {name: Partition(*values) for name, values in json.loads(os.environ[VARIABLE]).items()}


def minutes(limit: str) -> int | None:
    """Slurm's `D-HH:MM:SS`, `HH:MM:SS` or `MM:SS` in minutes; None for `infinite` and `n/a`.

    >>> minutes("1-02:30:00")
    1590
    """
    if not re.fullmatch(r"(\d+-)?[\d:]+", limit):
        return None
    days, _, clock = limit.rpartition("-")
    seconds = 0
    for part in clock.split(":"):
        seconds = 60 * seconds + int(part)
    return 24 * 60 * int(days or 0) + seconds // 60


def check(partitions: list[str], account: str, no_account: bool) -> None:
    """Refuse what Slurm would refuse job by job.

    Args:
        partitions: that the jobs are sent to; the empty name is the default one.
        account: that they are charged to, or nothing.
        no_account: whether the command says that the cluster has no accounts.

    Raises:
        UserError: a partition that does not exist, no account.
    """
    known = ask()
    for name in partitions:
        if name and name not in known:
            there = ", ".join(filter(None, known))
            hint = f"the cluster has {there}"
            raise UserError("unknown-partition", "slurm_partition", f"there is no partition '{name}'", hint)
        if name not in known:
            hint = "write --default-resources slurm_partition=NAME"
            raise UserError("unknown-partition", "slurm_partition", "no partition is named, and none is default", hint)
    if not account and not no_account:
        hint = "write --default-resources slurm_account=NAME, or --slurm-no-account on a cluster without accounts"
        raise UserError("no-account", "slurm_account", "no account is named", hint)
