"""What the comparisons share: a project folder with the demo's base in it, our command line, and the time a command takes."""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
CORES = os.cpu_count()
PROJECT = REPOSITORY / ".bench"  # the base is made here once, for all comparisons
BASE = PROJECT / "results/bases/smollm2/model"


def parser(doc: str) -> argparse.ArgumentParser:
    """A command line whose help is the script's own docstring."""
    return argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)


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
    """Our command line for a project folder."""
    program = Path(sys.executable).with_name("snakemake")
    return [program, "-s", REPOSITORY / "Snakefile", "--directory", folder, *arguments]


def project() -> Path:
    """The benchmarks' own folder, with examples/ and the demo's base; its other results are from earlier benchmarks."""
    PROJECT.mkdir(exist_ok=True)
    if not (PROJECT / "examples").exists():
        (PROJECT / "examples").symlink_to(REPOSITORY / "examples")
    config = ("--configfile", REPOSITORY / "config/examples/gsm8k.yaml")
    base = snakemake(PROJECT, *config, "--cores", CORES, "results/bases/smollm2/base.json")
    timed(base, PROJECT, PROJECT / "base.log")
    return PROJECT
