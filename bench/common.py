"""What the comparisons share: a project folder with the demo's base in it, our command line, and the time a command takes."""

import os
import subprocess
import sys
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
PROJECT = REPOSITORY / ".bench"  # the base is made here once, for all comparisons
BASE = PROJECT / "results/bases/smollm2/model"


def timed(command: list, folder: Path, log: Path) -> float:
    """Seconds that a command takes; its output goes to `log`.

    Exits with the end of the log where the command fails.
    """
    start = time.perf_counter()
    with log.open("w") as file:
        status = subprocess.run(list(map(str, command)), cwd=folder, stdout=file, stderr=subprocess.STDOUT).returncode
    if status:
        sys.exit(f"{' '.join(map(str, command))}: exit status {status}\n{log.read_text()[-4000:]}")
    return time.perf_counter() - start


def snakemake(folder: Path, *arguments) -> list:
    """Our command line for a project folder, on all cores, without MLflow's clock in the way of nothing else."""
    program = Path(sys.executable).with_name("snakemake")
    return [program, "-s", REPOSITORY / "Snakefile", "--directory", folder, "--cores", os.cpu_count(), *arguments]


def project() -> Path:
    """The benchmarks' own folder, with examples/ and the demo's base; its other results are from earlier benchmarks."""
    PROJECT.mkdir(exist_ok=True)
    if not (PROJECT / "examples").exists():
        (PROJECT / "examples").symlink_to(REPOSITORY / "examples")
    target = "results/bases/smollm2/base.json"
    timed(
        snakemake(PROJECT, "--configfile", REPOSITORY / "config/config.yaml", "--", target),
        PROJECT,
        PROJECT / "base.log",
    )
    return PROJECT
