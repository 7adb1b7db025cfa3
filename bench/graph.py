"""What the workflow's own machinery takes: a command that has nothing to do, and dry runs of 1,000 and 10,000 runs.

    python bench/graph.py

Snakemake's own part is measured beside them: a Snakefile of one rule with nothing to do, and bench/plain.smk, which plans the
same jobs and files without any of ours. Prints `name ratio aim` for the first and the two dry runs' seconds.
"""

import os
import shutil
import tempfile
from pathlib import Path

import yaml
from aims import tell
from common import REPOSITORY, parser, snakemake, timed

TINY = REPOSITORY / "config/test/tiny.yaml"
ONE_RULE = 'rule one:\n    output:\n        "one.txt",\n    shell:\n        "touch {output}"\n'
ROUNDS = 5


def many_runs(count: int) -> dict:
    """That many DPO runs from one SFT run."""
    config = yaml.safe_load((REPOSITORY / "config/examples/gsm8k.yaml").read_text())
    dpo = config["runs"]["dpo_lora"]
    config["runs"] |= {f"dpo_{i}": dpo | {"seed": i} for i in range(count - 1)}
    return config


def dry_run(folder: Path, runs: int) -> list:
    """The command that plans so many runs and prints the number of jobs; `folder` has the example data."""
    file = folder / f"{runs}.yaml"
    file.write_text(yaml.safe_dump(many_runs(runs)))
    return snakemake(folder, "--configfile", file, "--dry-run", "--quiet")


def plain_dry_run(folder: Path, runs: int) -> list:
    """The command that plans as many in bench/plain.smk."""
    os.environ["RUNS"] = str(runs)
    return snakemake(folder, "-s", REPOSITORY / "bench/plain.smk", "--dry-run", "--quiet")


def nothing_to_do(folder: Path) -> float:
    """How many times as long as a Snakefile of one rule a command takes that finds everything built."""
    ours = snakemake(folder, "--configfile", TINY, "--cores", 1, "results/dpo_lora/eval.json")
    (folder / "Snakefile").write_text(ONE_RULE)
    bare = snakemake(folder, "-s", folder / "Snakefile", "--cores", 1)
    times = {}
    for number in range(ROUNDS + 1):  # the first one builds
        for name, command in (("ours", ours), ("bare", bare)):
            seconds = timed(command, folder, folder / f"{name}.log")
            if number:
                times.setdefault(name, []).append(seconds)
    print(f"nothing to do: {min(times['ours']):.2f} s, a Snakefile of one rule {min(times['bare']):.2f} s", flush=True)
    return min(times["ours"]) / min(times["bare"])


def main() -> None:
    parser(__doc__).parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        shutil.copytree(REPOSITORY / "examples", folder / "examples")
        tell("nothing to do, ours / a Snakefile of one rule", nothing_to_do(folder))
        plain = timed(plain_dry_run(folder, 1000), folder, folder / "plain.log")
        print(f"dry run of 1,000 runs in a plain Snakefile of the same jobs: {plain:.1f} s", flush=True)
        for runs in (1000, 10_000):
            tell(f"dry run of {runs:,} runs, s", timed(dry_run(folder, runs), folder, folder / "dry.log"))


if __name__ == "__main__":
    main()
