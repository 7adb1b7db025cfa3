"""The files that a run's card is read from, and what it has to know besides."""

import json
from pathlib import Path

from posttrain.workflow import paths
from posttrain.workflow.project import Project


def files(project: Project, run: str) -> list[str]:
    """The results that the card reads.

    Of the exports those that have a proof: a card asks for none, and names none that is older than its model.
    """
    line, parts = project.lineage(run), project.graph.licences(project.run(run))
    trained = [project.run(name).run.data for name in line[1:]]
    read = [part.removeprefix("datasets.") for part in parts if part.startswith("datasets.")]
    bases = dict.fromkeys([line[0], *(part.removeprefix("bases.") for part in parts if part.startswith("bases."))])
    found = [paths.of(run, file) for file in ("eval.json", "eval/spec.json", "merge.json")]
    for name in line[1:]:
        found += [paths.of(name, f"{file}.json") for file in ("spec", "train", "preflight", "provenance")]
        found.append(paths.of(name, "train.jsonl"))
    for name in bases:
        found += [paths.base(name, "spec.json"), paths.base(name, "base.json")]
    for name in dict.fromkeys([*trained, *read]):
        found += [paths.data(name, "spec.json"), paths.data(name, "data.json")]
    found += [paths.data(name, "train.parquet") for name in dict.fromkeys(trained)]
    return found + proofs(run)


def proofs(run: str) -> list[str]:
    """The proofs of a run's exports that are there."""
    return [str(file) for file in sorted(Path(paths.of(run, "export")).glob("*.json")) if file.stem != "spec"]


def context(project: Project, run: str) -> str:
    """What no file says, as canonical JSON: licences as the configuration has them, and what the machine costs."""
    licences = project.graph.licences(project.run(run))
    return json.dumps({"licences": licences, **project.config.cost.model_dump()}, sort_keys=True)
