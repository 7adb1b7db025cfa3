"""Compare the whole pipeline with one plain TRL script doing the same work, in one run on one machine.

    make bench

Prints the ratio of the demo's pipeline and bench/plain_trl.py, from the base's folder to the last evaluation.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]


def timed(command: list, folder: Path, log: Path) -> float:
    """Seconds that a command takes; its output goes to `log`."""
    start = time.perf_counter()
    with log.open("w") as file:
        subprocess.run(list(map(str, command)), cwd=folder, check=True, stdout=file, stderr=subprocess.STDOUT)
    return time.perf_counter() - start


def snakemake(folder: Path, *arguments) -> list:
    """The command line for a project folder."""
    return [
        Path(sys.executable).with_name("snakemake"),
        "-s",
        REPOSITORY / "Snakefile",
        "--directory",
        folder,
        *arguments,
    ]


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        shutil.copytree(REPOSITORY / "examples", folder / "examples")
        cores = os.cpu_count()
        os.environ["OMP_NUM_THREADS"] = str(cores)
        timed(snakemake(folder, "--cores", cores, "results/bases/smollm2/base.json"), folder, folder / "base.log")
        target = snakemake(folder, "--cores", cores, "results/dpo_lora/eval.json")
        pipeline = timed(target, folder, folder / "pipeline.log")
        base, data = folder / "results/bases/smollm2/model", folder / "examples/data"
        script = [sys.executable, REPOSITORY / "bench/plain_trl.py", base, data, folder / "plain"]
        plain = timed(script, folder, folder / "plain.log")
        print((folder / "plain.log").read_text().splitlines()[-1])
    print(f"whole pipeline {pipeline:.0f} s, plain TRL script {plain:.0f} s: ratio {pipeline / plain:.2f}")


if __name__ == "__main__":
    main()
