"""Run a workflow in this process: Snakemake says which commands, in which order, and each script's `main` is called.

An import of torch and TRL takes longer than a tiny model's whole stage, so a process for each job is what such a workflow would
wait for.
"""

import os
import re
import runpy
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

from conftest import REPOSITORY

from posttrain.provenance import dry_run
from posttrain.runtime import script


@dataclass
class Job:
    """A job of the workflow."""

    rule: str
    inputs: list[str]
    outputs: list[str]
    command: str
    state: str | None = None
    """None: not run; "done"; or why it, or a job before it, stopped"""


def jobs(folder: Path, config: Path, targets: list[str]) -> list[Job]:
    """The jobs that make `targets` in the project `folder`, in an order in which they can run.

    Raises:
        UserError: Snakemake refuses the configuration; its message has the reason.
    """
    where = ["--directory", folder, "--configfile", config]
    planned = dry_run.planned(*where, "--", *targets)
    return [Job(job.rule, job.inputs, job.outputs, job.command) for job in planned if job.command]


def run(job: Job) -> None:
    """Run a job's command, a script's in this process.

    Raises:
        UserError: as the script does.
    """
    found = re.match(r"(?:exec )?python \"\$POSTTRAIN\"/(\S+) (.*)", job.command.strip(), re.DOTALL)
    for file in [*job.outputs, *re.findall(r"2> (\S+)$", job.command)]:
        Path(file).parent.mkdir(parents=True, exist_ok=True)
    if not found:
        subprocess.run(["bash", "-c", job.command], check=True)
        return
    arguments = shlex.split(found[2].replace("\\\n", " "))

    def main_of(parser, main, **_) -> None:
        main(parser.parse_args(arguments))

    with patch.object(script, "run", main_of), patch.dict(os.environ):
        runpy.run_path(str(REPOSITORY / "scripts" / found[1]), run_name="__main__")
