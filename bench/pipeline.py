"""Compare the whole pipeline with one plain TRL script doing the same work, in one run on one machine.

    make bench

Prints three ratios or times: the demo's pipeline over bench/plain_trl.py, from the base's folder to the last
evaluation; the same command again, when there is nothing to do; a dry run of a configuration with 1000 runs.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

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


def thousand_runs() -> dict:
    """A thousand DPO runs from one SFT run."""
    config = yaml.safe_load((REPOSITORY / "config/config.yaml").read_text())
    dpo = config["runs"]["dpo_lora"]
    config["runs"] |= {f"dpo_{i}": dpo | {"seed": i} for i in range(999)}
    return config


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        shutil.copytree(REPOSITORY / "examples", folder / "examples")
        cores = os.cpu_count()
        os.environ["OMP_NUM_THREADS"] = str(cores)
        timed(snakemake(folder, "--cores", cores, "results/bases/smollm2/base.json"), folder, folder / "base.log")
        target = snakemake(folder, "--cores", cores, "results/dpo_lora/eval.json")
        pipeline = timed(target, folder, folder / "pipeline.log")
        noop = timed(target, folder, folder / "noop.log")
        base, data = folder / "results/bases/smollm2/model", folder / "examples/data"
        script = [sys.executable, REPOSITORY / "bench/plain_trl.py", base, data, folder / "plain"]
        plain = timed(script, folder, folder / "plain.log")
        print((folder / "plain.log").read_text().splitlines()[-1])
        (folder / "thousand.yaml").write_text(yaml.safe_dump(thousand_runs()))
        options = ("--configfile", folder / "thousand.yaml", "--dry-run", "--quiet", "all")
        dry = timed(snakemake(folder, *options), folder, folder / "dry.log")
    print(f"whole pipeline {pipeline:.0f} s, plain TRL script {plain:.0f} s: ratio {pipeline / plain:.2f}")
    print(f"nothing to do: {noop:.1f} s")
    print(f"dry run of 1000 runs: {dry:.1f} s")


if __name__ == "__main__":
    main()
