"""Train a run again, elsewhere, and compare the bits: `posttrain rebuild-check`.

The run's own stage is built by the same rule in a temporary folder, in which everything else is a link to what is here. Nothing
under results/ changes, and nothing is sent to MLflow.
"""

import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from posttrain.provenance.changes import differences, told
from posttrain.provenance.dry_run import REPOSITORY
from posttrain.provenance.verify import RESULTS, built_with, sha256_of
from posttrain.runtime.atomic import read_json
from posttrain.runtime.console import say
from posttrain.runtime.errors import UserError
from posttrain.workflow import paths
from posttrain.workflow.names import Node
from posttrain.workflow.project import Project

# What the clock and the machine's other work decide in a line of train.jsonl.
CLOCKS = ("tokens_per_second", "memory_gib", "seconds", "cpu_percent", "gpu_percent")
OWN = ("spec.json", "preflight.json", "preflight.txt")


def rebuild_check(project: Project, configfile: Path, name: str) -> list[str]:
    """What differs between a run and the same run trained again; nothing where the bits are the same.

    Raises:
        UserError: the run is not built, or the configuration would not build this run any more, or training fails.
    """
    node = project.run(paths.target(name).name)
    folder = RESULTS / node.name
    record = _record(project, node, folder)
    with tempfile.TemporaryDirectory(prefix=".rebuild.", dir=RESULTS) as scratch:
        elsewhere = folder_in(Path(scratch).resolve(), levels_above(project.config.model_dump()))
        link_project(elsewhere, node.name)
        _train(elsewhere, node, configfile, record["training"]["threads"])
        found = compare(folder, elsewhere / folder)
    return found + (built_with(record) if found else [])


def _record(project: Project, node: Node, folder: Path) -> dict[str, Any]:
    build = project.command(f"{folder}/merge.json")
    if not (folder / "provenance.json").exists() or not (folder / "trained").exists():
        raise UserError("not-built", node.name, "it is not built yet", f"run: {build}")
    said = told(differences(read_json(folder / "spec.json"), json.loads(project.spec(node.name))))
    if said:
        problem = f"it was built with other settings than the configuration's now: {', '.join(said)}"
        hint = f"give --configfile the one that built it, or build it again: {build}"
        raise UserError("changed-settings", node.name, problem, hint)
    return read_json(folder / "provenance.json")


def levels_above(values: Any) -> int:
    """How many folders above the project's a configuration's values lead at most: 2 for `../../data/qa.jsonl`."""
    if isinstance(values, dict | list):
        inner = values.values() if isinstance(values, dict) else values
        return max(map(levels_above, inner), default=0)
    parts = Path(os.path.normpath(values)).parts if isinstance(values, str) else ()
    return sum(1 for _ in itertools.takewhile(lambda part: part == "..", parts))


def folder_in(scratch: Path, levels: int) -> Path:
    """The folder for another project, `levels` below `scratch`; beside it and its parents are links to what is beside ours.

    So a path that begins with `../` leads to the same file from there.
    """
    above = [Path.cwd(), *Path.cwd().parents][: levels + 1]
    elsewhere = scratch.joinpath(*(folder.name for folder in reversed(above[:-1])))
    elsewhere.mkdir(parents=True, exist_ok=True)
    copies = [elsewhere, *elsewhere.parents]
    for copy, folder, inner in zip(copies[1:], above[1:], above, strict=False):
        for entry in folder.iterdir():
            if entry.name != inner.name:
                (copy / entry.name).symlink_to(entry.resolve())
    return elsewhere


def link_project(elsewhere: Path, name: str) -> None:
    """Make another project folder of links, in which only the run's own training is missing."""
    (elsewhere / folder_of(name)).mkdir(parents=True, exist_ok=True)
    links = [(Path(), entry.name) for entry in Path().iterdir() if entry.name not in (RESULTS.name, ".snakemake")]
    hidden = [entry.name for entry in RESULTS.iterdir() if entry.name.startswith(".")]
    links += [(RESULTS, entry.name) for entry in RESULTS.iterdir() if entry.name not in (name, "logs", *hidden)]
    links += [(folder_of(name), file) for file in OWN if (folder_of(name) / file).exists()]
    for folder, file in links:
        (elsewhere / folder / file).symlink_to((folder / file).resolve())


def folder_of(name: str) -> Path:
    """A run's folder."""
    return RESULTS / name


def _train(elsewhere: Path, node: Node, configfile: Path, threads: int) -> None:
    """Run the rule that trained the run, alone, with as many threads as before: another number rounds otherwise."""
    say(f"{node.name}: trained again in {elsewhere}, with {threads} threads")
    program = [str(Path(sys.executable).parent / "snakemake"), "--snakefile", str(REPOSITORY / "Snakefile")]
    where = ["--directory", str(elsewhere), "--configfile", str(configfile.resolve()), "--cores", str(threads)]
    alone = [
        "--allowed-rules",
        node.run.objective,
        "--config",
        "tracking={mlflow: false, also: []}",
        "cache={path: ''}",  # Snakemake reads every value here as text
    ]
    run = subprocess.run([*program, *where, *alone, "--", f"{folder_of(node.name)}/trained"], stdout=subprocess.DEVNULL)
    if run.returncode:
        raise UserError(
            "snakemake-failed", node.name, "it could not be trained again", "read what snakemake says above"
        )


# ---- comparison


def compare(before: Path, after: Path) -> list[str]:
    """What differs in two folders of a run: files of trained/, and the numbers of train.jsonl."""
    names = sorted({file.name for folder in (before, after) for file in (folder / "trained").glob("[!.]*")})
    pairs = [(f"trained/{name}", before / "trained" / name, after / "trained" / name) for name in names]
    found = [said for name, old, new in pairs for said in _compare_files(name, old, new)]
    return found + list(itertools.islice(_compare_steps(before / "train.jsonl", after / "train.jsonl"), 1))


def _compare_files(name: str, old: Path, new: Path) -> Iterator[str]:
    if not (old.exists() and new.exists()):
        yield f"{name} is only in {old.parent if old.exists() else 'the new one'}"
    elif sha256_of(old) != sha256_of(new):
        if name.endswith(".safetensors"):
            yield f"{name}: {compare_tensors(old, new)}"
        else:
            yield f"{name} differs"


def compare_tensors(old: Path, new: Path) -> str:
    """The first tensor, by name, that differs between two files, with its largest difference, and how many do."""
    from safetensors import safe_open

    with safe_open(old, "pt") as before, safe_open(new, "pt") as after:
        names = sorted(before.keys())
        if names != sorted(after.keys()):
            only = sorted(set(names) ^ set(after.keys()))
            return f"{len(only)} tensors are only in one of the two, the first {only[0]}"
        pairs = ((name, before.get_tensor(name), after.get_tensor(name)) for name in names)
        different = [(name, _largest(old, new)) for name, old, new in pairs if not _same_bits(old, new)]
    if not different:
        return "the tensors are the same, the file's header differs"
    name, largest = different[0]
    return f"{len(different)} of {len(names)} tensors differ; of the first, {name}, by at most {largest:.3g}"


def _same_bits(old: Any, new: Any) -> bool:
    import torch

    if (old.dtype, old.shape) != (new.dtype, new.shape):
        return False
    return torch.equal(old.contiguous().view(-1).view(torch.uint8), new.contiguous().view(-1).view(torch.uint8))


def _largest(old: Any, new: Any) -> float:
    """The largest difference of two tensors' numbers, where both have one."""
    if old.shape != new.shape:
        return float("inf")
    return (old.double() - new.double()).abs().nan_to_num(0.0).max().item()


def _compare_steps(old: Path, new: Path) -> Iterator[str]:
    """The numbers of train.jsonl that differ, in their order."""
    files = [[json.loads(line) for line in file.read_text().splitlines()] for file in (old, new)]
    for before, after in itertools.zip_longest(*files, fillvalue={}):
        for key in dict.fromkeys([*before, *after]):
            if key not in CLOCKS and before.get(key) != after.get(key):
                step = before.get("step", after.get("step"))
                yield f"train.jsonl, step {step}: {key} was {before.get(key)}, is now {after.get(key)}"
