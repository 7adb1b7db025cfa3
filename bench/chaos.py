"""Kill a project at random moments, type the same command again, and compare all bits with those of a project left in peace.

    python bench/chaos.py --kills 100 --seed 1     # every objective, on the random tiny model: about 40 minutes on two cores
    python bench/chaos.py --kills 6 --runs sft     # a part of it: about 5 minutes

The project is config/test/chains.yaml with longer trainings, which save as often as they may: all objectives, chained, each run
checked, trained, merged and evaluated. It is built once in peace. Then it is built again and again, each time with kills, until so
many have been dealt. Kills are of six kinds: SIGKILL of a stage, of Snakemake alone, of the whole process group; SIGTERM of a stage, of
the group; and a restart of the machine, which ends everything and leaves Snakemake's lock behind.
"""

import argparse
import contextlib
import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY / "scripts"))

from posttrain.objectives import OBJECTIVES  # noqa: E402
from posttrain.provenance.rebuild import CLOCKS  # noqa: E402

KINDS = ("SIGKILL stage", "SIGKILL snakemake", "SIGKILL group", "SIGTERM stage", "SIGTERM group", "restart")
STEPS = {"ppo": 12, "grpo": 12, "rloo": 12}  # of a training that generates; of the others LONG
LONG = 300
SOONEST, LATEST = 2, 25  # seconds from the start of a command to its kill
PATIENCE = 900  # seconds after which a command that does not end hangs
# What tells of the building and not of the result: times, memory, what was resumed, who logged it, and the seal over these.
OF_THE_BUILDING = {*CLOCKS, "resumed_from", "mlflow_run_id", "seal", "machine", "date", "training"}
COMPARED = (".json", ".jsonl", ".parquet", ".safetensors", ".jinja", ".md")


@dataclass
class Tally:
    """What the kills did."""

    kinds: Counter = field(default_factory=Counter)
    """kills of each kind"""
    stages: Counter = field(default_factory=Counter)
    """kills while a stage was at work, by the rule's name"""
    resumes: int = 0
    """trainings that went on from a checkpoint"""
    lost: list[int] = field(default_factory=list)
    """optimiser steps that each SIGKILL of a training lost"""
    lost_politely: list[int] = field(default_factory=list)
    """the same of each SIGTERM"""
    rounds: int = 0
    mismatches: list[str] = field(default_factory=list)

    def report(self) -> str:
        """The figures as lines."""
        lines = [
            f"kills {sum(self.kinds.values())}: " + ", ".join(f"{kind} {n}" for kind, n in self.kinds.most_common())
        ]
        lines.append("while at work: " + ", ".join(f"{stage} {n}" for stage, n in self.stages.most_common()))
        lines.append(f"projects finished {self.rounds}, trainings resumed from a checkpoint {self.resumes}")
        for word, lost in (("SIGKILL", self.lost), ("SIGTERM", self.lost_politely)):
            lines.append(
                f"optimiser steps lost to {len(lost)} x {word} of a training: {sum(lost)}, at most {max(lost, default=0)}"
            )
        lines.append(f"files that differ: {len(self.mismatches)}")
        return "\n".join(lines + [f"    {name}" for name in self.mismatches])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--runs", nargs="+", help="runs of config/test/chains.yaml, with what they are built from (default: all)"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        project = make_project(Path(scratch) / "peace")
        names = options.runs or list(yaml.safe_load(project.read_text())["runs"])
        targets = [f"results/{name}/eval.json" for name in names]
        tally = storm(project, targets, options.kills, options.seed, print)
    print(tally.report())
    return 1 if tally.mismatches else 0


def make_project(folder: Path, source: str = "chains") -> Path:
    """A project folder with the example data; returns its configuration, in which trainings take long and save often."""
    shutil.copytree(REPOSITORY / "examples", folder / "examples")
    config = yaml.safe_load((REPOSITORY / f"config/test/{source}.yaml").read_text())
    for run in config["runs"].values():
        run["max_steps"] = STEPS.get(run["objective"], LONG)
    config["tracking"] |= {"checkpoint_seconds": 0}
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump(config))
    return file


def storm(project: Path, targets: list[str], kills: int, seed: int, say=lambda _: None) -> Tally:
    """Build a project in peace beside its configuration, then under kills, and compare.

    Raises:
        RuntimeError: a command failed that nobody killed, or did not end.
    """
    chance, tally = random.Random(seed), Tally()
    start = time.monotonic()
    finish(project.parent, targets)
    say(f"built in peace: {time.monotonic() - start:.0f} s")
    while sum(tally.kinds.values()) < kills:
        folder = project.parent.with_name(f"round_{tally.rounds}")
        folder.mkdir()
        for name in ("examples", "config.yaml"):
            copy = shutil.copytree if (project.parent / name).is_dir() else shutil.copy
            copy(project.parent / name, folder / name)
        while sum(tally.kinds.values()) < kills and (dealt := live(folder, targets, chance, tally)):
            say(f"{sum(tally.kinds.values())}: {dealt}")
        finish(folder, targets, tally)
        tally.rounds += 1
        tally.mismatches += [f"{folder.name}/{name}" for name in differing(project.parent, folder)]
        say(f"round {tally.rounds}: {sum(tally.kinds.values())} kills, {len(tally.mismatches)} files differ")
        shutil.rmtree(folder)
    return tally


def live(folder: Path, targets: list[str], chance: random.Random, tally: Tally) -> str | None:
    """One command, killed at a random moment in a random way; returns how and where, or None where it was done before that."""
    output, began = folder / "output.txt", time.time()
    process = start_command(folder, targets, output)
    with contextlib.suppress(subprocess.TimeoutExpired):
        if wait_for_a_moment(process, folder, chance, began):
            raise RuntimeError(f"failed without a kill:\n{output.read_text()[-3000:]}")
        return None
    kind = chance.choice(KINDS)
    at_work = stages(folder)
    if kind.endswith("stage") and not at_work:
        kind = "SIGKILL group"
    kill(kind, process, folder, chance.choice(at_work)[0] if at_work else None)
    try:
        process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"hangs after {kind}:\n{output.read_text()[-3000:]}") from None
    tally.kinds[kind] += 1
    tally.stages.update(stage for _, stage in at_work)
    tally.resumes += output.read_text().count("resumes from checkpoint-")
    if kind in ("SIGKILL group", "restart", "SIGTERM group"):  # of the others, some stages are still at work
        lost = tally.lost_politely if kind.startswith("SIGTERM") else tally.lost
        lost += lost_steps(folder, began)
    return f"{kind}, at work: {', '.join(stage for _, stage in at_work) or 'nothing'}"


def wait_for_a_moment(process: subprocess.Popen, folder: Path, chance: random.Random, began: float) -> int:
    """Wait for a random time; half of the times only once a training takes steps, as most of a short job is imports.

    Raises:
        TimeoutExpired: the moment has come, and the command is still at work.
    """
    if chance.random() < 0.5:
        return process.wait(chance.uniform(SOONEST, LATEST))
    while process.poll() is None and time.time() < began + 3 * LATEST:
        if at_steps(folder, began):
            return process.wait(chance.uniform(0, 3))
        time.sleep(0.05)
    return process.wait(0)


def at_steps(folder: Path, since: float) -> list[Path]:
    """The lines of each training that has taken steps since then and is not finished."""
    files = folder.glob("results/*/checkpoints/*/train.jsonl")
    return [file for file in files if file.stat().st_mtime >= since and not (file.parent / "finished").exists()]


def kill(kind: str, process: subprocess.Popen, folder: Path, stage: int | None) -> None:
    """Deal one of KINDS."""
    number = signal.SIGTERM if kind.startswith("SIGTERM") else signal.SIGKILL
    with contextlib.suppress(ProcessLookupError):  # it ended by itself a moment ago
        if kind.endswith("stage"):
            os.kill(stage, number)
        elif kind.endswith("snakemake"):
            process.kill()
        else:
            os.killpg(process.pid, number)
    if kind == "restart":
        for pid, _ in stages(folder):  # orphans of earlier kills
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        locks = folder / ".snakemake/locks"
        locks.mkdir(exist_ok=True)
        (locks / "0.output.lock").write_text(f"{folder}/results/sft/trained\n")


def finish(folder: Path, targets: list[str], tally: Tally | None = None) -> None:
    """The same command, in peace."""
    output = folder / "output.txt"
    process = start_command(folder, targets, output)
    try:
        if process.wait(4 * PATIENCE):
            raise RuntimeError(f"the last command failed:\n{output.read_text()[-3000:]}")
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    if tally:
        tally.resumes += output.read_text().count("resumes from checkpoint-")


def start_command(folder: Path, targets: list[str], output: Path) -> subprocess.Popen:
    """Snakemake in a process group of its own, each stage on one thread, two at once."""
    texts = [file.read_text() for file in (REPOSITORY / "rules").glob("*.smk")]
    rules = {*re.findall(r"^rule (\w+):", "".join(texts), re.M), *OBJECTIVES}
    where = ["-s", REPOSITORY / "Snakefile", "--directory", folder, "--configfile", folder / "config.yaml"]
    small = ["--cores", 2, "--resources", "gpu=2", "--set-threads", *(f"{rule}=1" for rule in rules)]
    line = [Path(sys.executable).with_name("snakemake"), *where, *small, "--", *targets]
    with output.open("w") as file:
        return subprocess.Popen(list(map(str, line)), stdout=file, stderr=file, start_new_session=True)


def stages(folder: Path) -> list[tuple[int, str]]:
    """Process id and rule of every stage script that is at work in a folder, as its log is named."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if not entry.name.isdigit() or (entry / "cwd").readlink() != folder:
                continue
            words = (entry / "cmdline").read_bytes().decode().split("\0")
            if "--log" in words and "python" in words[0]:
                found.append((int(entry.name), words[words.index("--log") + 1].split("/")[2]))
    return found


def lost_steps(folder: Path, since: float) -> list[int]:
    """Of each training that has taken steps since then and was stopped: those that are in no checkpoint that counts."""
    lost = []
    for file in at_steps(folder, since):
        saved = [int(seal.parent.name.split("-")[1]) for seal in file.parent.glob("checkpoint-*/SHA256SUMS")]
        lost.append(len(file.read_text().splitlines()) - max(saved, default=0))
    return lost


def differing(one: Path, other: Path) -> list[str]:
    """The results that two projects do not have alike, or not both."""
    names = {str(file.relative_to(folder)) for folder in (one, other) for file in compared(folder)}
    return [name for name in sorted(names) if content(one / name) != content(other / name)]


def compared(folder: Path) -> list[Path]:
    """Every result, but no log, checkpoint, page or hidden file."""
    return [
        file
        for file in (folder / "results").rglob("*")
        if file.is_file()
        and file.suffix in COMPARED
        and not {"logs", "checkpoints", "mlartifacts"} & set(file.parts)
        and not any(part.startswith(".") for part in file.relative_to(folder).parts)
    ]


def content(file: Path) -> Any:
    """What of a file is the result: its bits, or its values without OF_THE_BUILDING."""
    if not file.exists():
        return None
    if file.suffix == ".json":
        values = json.loads(file.read_text())
        if file.name == "provenance.json":
            del values["steps"]  # the hash of train.jsonl, with its clocks
        return without(values)
    if file.suffix == ".jsonl":
        return [without(json.loads(line)) for line in file.read_text().splitlines()]
    return hashlib.sha256(file.read_bytes()).hexdigest()


def without(values: Any) -> Any:
    """JSON without the keys that tell of the building."""
    if isinstance(values, dict):
        return {key: without(value) for key, value in values.items() if key not in OF_THE_BUILDING}
    return [without(value) for value in values] if isinstance(values, list) else values


if __name__ == "__main__":
    sys.exit(main())
