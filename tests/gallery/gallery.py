"""The gallery: runs of tiny models, sick on purpose or healthy, and how often `posttrain doctor` is right about them.

Each run is trained by the workflow; its findings are compared with what was written down before.

    python tests/gallery/gallery.py FOLDER              builds what is not there yet, and prints the table
    python tests/gallery/gallery.py FOLDER --no-build   asks the doctor again
    python tests/gallery/gallery.py FOLDER --no-build --keep tests/gallery/records
                                                        keeps what the quick test reads of a few runs
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import yaml

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
sys.path[:0] = [str(HERE), str(REPOSITORY / "scripts")]
import gallery_rows  # noqa: E402

FILES = ("gallery.yaml", "few_rows.yaml", "unseen.yaml", "examination.yaml")
STAGES = "sft dpo kto orpo cpo reward grpo rloo ppo logprobs merge eval".split()
# The runs whose records the quick test reads, and what the doctor reads of a run, of its parent and of its dataset.
KEPT = ("sft_lora", "rate_high_lora", "leaked", "same_as_base")
RUN_FILES = "spec.json preflight.json train.jsonl train.json merge.json eval.json eval/spec.json eval/examples.parquet eval/answers.jsonl"
# Bases that are folders of trained models, and so cannot be there before these are.
PARENTS = ("start", "start_wide")


class Case(NamedTuple):
    """A run of the gallery and what is known of it."""

    name: str
    part: str
    """the file that it is in"""
    folder: str
    """the project folder, within the gallery's"""
    right: tuple[str, ...]
    """the findings that are right as the first one; none for a healthy run"""
    why: str
    records: dict[str, list[int]]
    """columns of train.jsonl that are overwritten, each with the lowest and the highest value"""


class Judged(NamedTuple):
    """A run and what the doctor said of it."""

    case: Case
    found: tuple[str, ...]

    @property
    def is_right(self) -> bool:
        """Whether the first finding of a sick run is right; whether a healthy one has none."""
        return self.found[:1] in [(code,) for code in self.case.right] if self.case.right else not self.found


def read(files: Iterable[Path]) -> tuple[list[Case], dict[str, dict]]:
    """The cases, and the configuration of each project folder."""
    cases, configurations = [], {}
    for file in files:
        given = yaml.safe_load(file.read_text())
        folder = given.get("folder", ".")
        config = configurations.setdefault(folder, {"runs": {}})
        for table, rows in given["configuration"].items():
            config[table] = config.get(table, {}) | rows
        for name, run in given["runs"].items():
            right, why, records = run.pop("is"), run.pop("why", ""), run.pop("records", {})
            right = () if right == "healthy" else tuple([right] if isinstance(right, str) else right)
            if right != ("not judged",):
                cases.append(Case(name, file.stem, folder, right, why, records))
            if "," not in name:
                config["runs"][name] = given["defaults"] | run
    return cases, configurations


# ---- build


def build(gallery: Path, cases: list[Case], configurations: dict[str, dict], cores: int) -> None:
    """Train, merge and evaluate every run; some of the sick ones end in an error, which is what is wrong with them."""
    import_once()
    for project, config in configurations.items():
        folder = gallery / project
        gallery_rows.write(folder / "data")
        for name in ("rewards", "memory"):
            shutil.copy(HERE / f"gallery_{name}.py", folder / f"{name}.py")
        shutil.copytree(HERE / "templates", folder / "templates", dirs_exist_ok=True)
        (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
        parents = [parent for parent in PARENTS if parent in config["runs"]]
        if parents:
            snakemake(folder, [f"results/{parent}/eval.json" for parent in parents], cores)
            without_template(folder)
        snakemake(folder, [f"results/{case.name}/eval.json" for case in cases if case.folder == project], cores)
    for case in cases:
        if case.records:
            overwrite(gallery / case.folder / "results" / case.name / "train.jsonl", case.records)


def import_once() -> None:
    """Start the process that all stages are forks of, for every command that follows, and wait until it can fork."""
    from posttrain.runtime import fork_server

    fork_server.start(REPOSITORY / "scripts/fork_server.py", fork_server.MIN_STAGES)
    if fork_server.VARIABLE in os.environ:  # there is none beside a GPU
        while not Path(os.environ[fork_server.VARIABLE]).exists():
            time.sleep(0.1)


def snakemake(folder: Path, targets: list[str], cores: int) -> None:
    """Build these targets as far as they can be built."""
    program = Path(sys.executable).with_name("snakemake")
    command = [program, "-s", REPOSITORY / "Snakefile", "--directory", folder, "--configfile", folder / "config.yaml"]
    threads = [f"{stage}=1" for stage in STAGES]
    command += ["--cores", cores, "--resources", f"gpu={cores}", "--set-threads", *threads, "--keep-going", "--"]
    subprocess.run([str(part) for part in (*command, *targets)], env=os.environ | {"OMP_NUM_THREADS": "1"})


def without_template(folder: Path) -> None:
    """Leave a copy of a trained model whose chat template got lost."""
    source, copy = folder / "results/start_wide/model", folder / "bare"
    if source.exists() and not copy.exists():
        shutil.copytree(source, copy, ignore=shutil.ignore_patterns("*.jinja", "README.md"))


def overwrite(file: Path, records: dict[str, list[int]]) -> None:
    """Put other numbers into columns of train.jsonl, for what a machine without a GPU cannot show."""
    rng, changed = random.Random(0), file.stat()
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    told = [line | {name: rng.randint(*ends) for name, ends in records.items()} for line in lines]
    file.write_text("".join(json.dumps(line) + "\n" for line in told))
    os.utime(file, ns=(changed.st_atime_ns, changed.st_mtime_ns))


# ---- judge


def judge(gallery: Path, cases: list[Case]) -> list[Judged]:
    """Ask the doctor about each run."""
    from posttrain.diagnosis.doctor import diagnose

    return [
        Judged(case, tuple(finding.code for finding in diagnose(gallery / case.folder / "results" / case.name)))
        for case in cases
    ]


def rate(judged: list[Judged]) -> str:
    """How many are right, with Wilson's 95 % interval."""
    from scipy.stats import binomtest

    right = sum(one.is_right for one in judged)
    if not judged:
        return "none"
    low, high = binomtest(right, len(judged)).proportion_ci(method="wilson")
    return f"{right} of {len(judged)}, {right / len(judged):.0%} [{low:.0%}, {high:.0%}]"


def table(judged: list[Judged]) -> str:
    """A Markdown table of all runs, and the rates."""
    lines = ["| run | what is wrong with it | findings | right |", "|---|---|---|---|"]
    for one in judged:
        found = ", ".join(one.found) or "none"
        lines.append(
            f"| `{one.case.name}` | {one.case.why or 'nothing'} | {found} | {'yes' if one.is_right else '**no**'} |"
        )
    lines.append("")
    for words, is_part in {
        "all": lambda part: True,
        "seen before the last change of the rules": lambda part: part != "examination",
        "examination": lambda part: part == "examination",
    }.items():
        some = [one for one in judged if is_part(one.case.part)]
        sick, healthy = ([one for one in some if bool(one.case.right) == want] for want in (True, False))
        lines.append(f"{words}: sick {rate(sick)}; healthy {rate(healthy)}")
    return "\n".join(lines)


def keep(gallery: Path, records: Path) -> None:
    """Copy what the doctor reads of a few runs."""
    results = gallery / "results"
    for name in KEPT:
        spec = json.loads((results / name / "spec.json").read_text())
        files = [f"{name}/{file}" for file in RUN_FILES.split()]
        files += [f"{spec['from']['name']}/eval/examples.parquet", f"data/{spec['data']['name']}/data.json"]
        for file in files:
            if (results / file).exists():
                (records / "results" / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(results / file, records / "results" / file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the runs are built")
    parser.add_argument("--no-build", action="store_true", help="judge what is there")
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--files", nargs="+", type=Path, default=[HERE / name for name in FILES])
    parser.add_argument("--keep", type=Path, help="the folder to copy the records of a few runs to")
    options = parser.parse_args()
    cases, configurations = read(options.files)
    if not options.no_build:
        build(options.folder.resolve(), cases, configurations, options.cores)
    if options.keep:
        keep(options.folder, options.keep)
    print(table(judge(options.folder, cases)))


if __name__ == "__main__":
    main()
