"""The files of a run that a diagnosis rests on, read as far as they are there."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from posttrain.models import out_of_memory
from posttrain.runtime.atomic import read_json
from posttrain.workflow import paths

ERROR = "posttrain: "  # what begins the line of an error in a log


@dataclass
class Evidence:
    """What the files of one run say; what is not there is empty and named in `missing`."""

    run: str
    spec: dict[str, Any]
    steps: list[dict[str, Any]] = field(default_factory=list)
    """the lines of train.jsonl that are of a step"""
    measured: list[dict[str, Any]] = field(default_factory=list)
    """its lines that are of held-out rows"""
    train: dict[str, Any] = field(default_factory=dict)
    attempts: list[dict[str, Any]] = field(default_factory=list)
    """those that ran out of memory"""
    preflight: dict[str, Any] = field(default_factory=dict)
    merge: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    """report.json of the training dataset, or data.json"""
    evaluation: dict[str, Any] = field(default_factory=dict)
    evaluation_spec: dict[str, Any] = field(default_factory=dict)
    examples: list[dict[str, Any]] = field(default_factory=list)
    parent_examples: list[dict[str, Any]] = field(default_factory=list)
    answers: list[dict[str, Any]] = field(default_factory=list)
    """of the evaluation: `output`, number of `tokens`, whether it `ended`"""
    proofs: dict[str, dict[str, Any]] = field(default_factory=dict)
    """of the exports, by kind"""
    error: str = ""
    """the error that ended the last training"""
    missing: list[str] = field(default_factory=list)

    @property
    def state(self) -> str:
        """`trained`, `failed`, `unfinished` (in progress, or killed), or `not begun`."""
        if self.train:
            return "trained"
        if self.error:
            return "failed"
        return "unfinished" if self.steps else "not begun"


def read(folder: Path) -> Evidence:
    """What there is of a run whose folder this is; the rest of its project is found from there."""
    project = folder.parents[1]
    spec = _json(folder / "spec.json")
    found = Evidence(folder.name, spec)
    training = folder if (folder / "train.json").exists() else _newest(folder)
    lines = _lines(training / "train.jsonl") if training else []
    found.steps = [line for line in lines if "loss" in line]
    found.measured = [line for line in lines if "loss" not in line]
    found.train = _json(folder / "train.json")
    found.attempts = found.train.get("attempts") or (out_of_memory.recorded(training) if training else [])
    found.preflight, found.merge = _json(folder / "preflight.json"), _json(folder / "merge.json")
    found.error = "" if found.train else _error(project, spec, folder.name)
    if spec:
        name = spec["data"]["name"]
        found.data = _json(project / paths.data(name, "report.json")) or _json(project / paths.data(name, "data.json"))
    _read_evaluation(found, folder, project)
    for file in sorted((folder / "export").glob("*.json")):
        if file.name != "spec.json":
            found.proofs[file.stem] = read_json(file)
    found.missing = [name for name, there in _wanted(found) if not there]
    return found


def _read_evaluation(found: Evidence, folder: Path, project: Path) -> None:
    found.evaluation = _json(folder / "eval.json")
    found.evaluation_spec = _json(folder / "eval/spec.json")
    found.examples = _examples(folder / "eval/examples.parquet")
    if parent := found.spec.get("from", {}).get("name"):
        found.parent_examples = _examples(project / paths.examples(parent))
    texts = {row["output"] for row in found.examples if row.get("output") is not None}
    found.answers = [
        {"output": row["output"], "tokens": len(row["ids"]), "ended": row["ended"]}
        for row in _lines(folder / "eval/answers.jsonl")
        if "ids" in row and row["output"] in texts  # others are of earlier settings
    ]


def _wanted(found: Evidence) -> list[tuple[str, Any]]:
    return [
        ("train.jsonl", found.steps),
        ("held-out rows during training (measure_every)", found.measured),
        ("train.json", found.train),
        ("preflight.json", found.preflight),
        ("report.json of the data", found.data),
        ("eval.json", found.evaluation),
        ("answers of the evaluation", found.answers),
    ]


def _json(file: Path) -> dict[str, Any]:
    return read_json(file) if file.exists() else {}


def _lines(file: Path) -> list[dict[str, Any]]:
    """The lines of a JSON-lines file, without a last one that is being written."""
    if not file.exists():
        return []
    whole = file.read_bytes()
    return [json.loads(line) for line in whole[: whole.rfind(b"\n") + 1].splitlines()]


def _newest(run: Path) -> Path | None:
    """The folder of a training that is not finished: the one that was written to last."""
    files = [file for name in ("train.jsonl", out_of_memory.ATTEMPTS) for file in run.glob(f"checkpoints/*/{name}")]
    return max(files, key=lambda file: file.stat().st_mtime).parent if files else None


def _error(project: Path, spec: dict[str, Any], run: str) -> str:
    """The sentence with which the last training or preflight ended; empty where it did not end in an error."""
    for rule in (spec.get("objective"), "preflight"):
        file = project / paths.log(rule, run) if rule else None
        if file and file.exists():
            told = [line for line in file.read_text(errors="replace").splitlines() if line.strip()]
            if told and (told[-1].startswith(ERROR) or "Error" in told[-1]):
                return told[-1].removeprefix(ERROR)
    return ""


def _examples(file: Path) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    return pq.read_table(file).to_pylist() if file.exists() else []
