"""The jobs that Snakemake would run, read through its logger plugin interface: `--logger-posttrain-json`."""

import json
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from posttrain.runtime.errors import UserError

REPOSITORY = Path(__file__).resolve().parents[3]


class Job(NamedTuple):
    """A job that Snakemake would run."""

    rule: str
    outputs: list[str]
    reason: str
    """`KIND: FILE, FILE; KIND: FILE`, as Snakemake says it"""
    inputs: list[str] = []
    command: str = ""
    """what its shell would run"""
    log: str = ""
    """the file of its log; the empty text for a rule without one"""


def planned(*arguments: str | Path) -> list[Job]:
    """The jobs of a dry run, in an order in which they can run.

    Args:
        arguments: of `snakemake`, such as targets and `--configfile`; targets stand after `--`.

    Raises:
        UserError: Snakemake refuses, in our sentence or its own.
    """
    program = [Path(sys.executable).parent / "snakemake", "--snakefile", REPOSITORY / "Snakefile", "--dry-run"]
    options = ["--cores", "1", "--logger", "posttrain", "--logger-posttrain-json"]
    run = subprocess.run([*map(str, [*program, *options, *arguments])], capture_output=True, text=True)
    events = [json.loads(line) for line in run.stdout.splitlines() if line.startswith("{")]
    if run.returncode:
        ours = [line for line in run.stderr.splitlines() if line.startswith("posttrain: ")]
        errors = [event["message"] for event in events if event["level"] == "error"]
        said = [*ours, *(errors or run.stderr.splitlines())[-1:], f"snakemake ended with {run.returncode}"]
        raise UserError("snakemake-failed", "", said[0].strip().removeprefix("posttrain: "))
    return [
        Job(
            event["rule_name"],
            event["output"],
            event["reason"],
            event["input"],
            event["shellcmd"] or "",
            next(iter(event["log"] or ()), ""),
        )
        for event in events
        if event["event"] == "job_info"
    ]
