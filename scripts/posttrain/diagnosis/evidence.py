"""The files of a run that a diagnosis rests on, read as far as they are there."""

import fcntl
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from posttrain.data import thoughts
from posttrain.models import out_of_memory
from posttrain.runtime.atomic import read_json
from posttrain.workflow import paths

TEMPLATE = "chat_template.jinja"
FIRST_ROWS = 200  # of the training rows that are looked at
ERROR = "posttrain: "  # what begins the line of an error in a log
ENDING = 40  # lines of a log in which it ends
TRACEBACK = re.compile(r"^[\w.]*(Error|Exception|Interrupt)\b")


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
    """of the evaluation: `suite`, `reference`, `output`, its number of `tokens`, their `limit`, and whether it `ended`"""
    thinking: float | None = None
    """the share of the first training answers that think; None of rows without answers"""
    templates: tuple[str, str] = ("", "")
    """the chat template that the base's source has, and the one that is in force; empty where they are not known"""
    vocabulary: int | None = None
    """number of tokens that the base knows"""
    is_from_random: bool = False
    """whether the parent is a base of random weights"""
    proofs: dict[str, dict[str, Any]] = field(default_factory=dict)
    """of the exports, by kind"""
    error: str = ""
    """the error in which the first step ended whose result is not there"""
    is_at_work: bool = False
    """whether a process on this machine trains the run now"""
    was_killed_for_memory: bool = False
    """whether the kernel has ended the last training for want of memory"""
    missing: list[str] = field(default_factory=list)

    @property
    def state(self) -> str:
        """`trained`, `in progress`, `failed`, `interrupted` (killed: the same command resumes it) or `not begun`."""
        if self.error and not self.is_at_work:
            return "failed"
        if self.train:
            return "trained"
        if self.is_at_work:
            return "in progress"
        return "interrupted" if self.steps else "not begun"


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
    refused = project / paths.log("preflight", folder.name).with_suffix(".json")
    found.preflight = _json(folder / "preflight.json") or _json(refused)
    found.merge = _json(folder / "merge.json")
    if training and not found.train:
        found.was_killed_for_memory = out_of_memory.killed_for_memory(training)
    if spec:
        found.error = _error(project, folder, spec["objective"])
        found.is_at_work = _is_held(project / f"{paths.log(spec['objective'], folder.name)}.lock")
        name = spec["data"]["name"]
        found.data = _json(project / paths.data(name, "report.json")) or _json(project / paths.data(name, "data.json"))
        _read_base(found, project)
        found.thinking = _thinking(project / paths.data(name, "train.parquet"))
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
    given = {row["output"]: row for row in _lines(folder / "eval/answers.jsonl") if "ids" in row}
    for row in found.examples:
        if answer := given.get(row.get("output")):
            suite = row["suite"].split("/")[0]
            limits = found.evaluation_spec.get("suites", {}).get(suite, found.evaluation_spec)
            told = {"tokens": len(answer["ids"]), "ended": answer["ended"], "limit": limits.get("max_new_tokens")}
            found.answers.append({"suite": suite, "reference": row.get("reference"), "output": row["output"]} | told)


def _read_base(found: Evidence, project: Path) -> None:
    """What is known of the base that a run descends from."""
    parent = name = found.spec["from"]["name"]
    while spec := _json(project / paths.of(name, "spec.json")):
        name = spec["from"]["name"]
    base = _json(project / paths.base(name, "spec.json"))
    found.is_from_random = base.get("source") == "random" and name == parent
    found.vocabulary = _json(project / paths.base(name, "model/config.json")).get("vocab_size")
    own, given = project / base.get("path", "") / TEMPLATE, project / paths.base(name, f"model/{TEMPLATE}")
    if "chat_template" in base and "path" in base and own.exists() and given.exists():
        found.templates = own.read_text(encoding="utf-8"), given.read_text(encoding="utf-8")


def _thinking(file: Path) -> float | None:
    """The share of a dataset's first answers that think."""
    import pyarrow.parquet as pq

    if not file.exists():
        return None
    rows = next(pq.ParquetFile(file).iter_batches(FIRST_ROWS), None)
    turns = [row["messages"][-1] for row in rows.to_pylist() if row.get("messages")] if rows is not None else []
    said = [bool(turn.get("reasoning_content") or thoughts.split(turn["content"] or "")[0]) for turn in turns]
    return sum(said) / len(said) if said else None


def key(example: dict[str, Any]) -> tuple[str, str, str]:
    """What an example is called among all of a model's."""
    return example["suite"], example["dataset"], example["id"]


def paired(found: Evidence) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """The examples that the run and its parent both have."""
    others = {key(row): row for row in found.parent_examples}
    return [(row, others[key(row)]) for row in found.examples if key(row) in others]


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


def _error(project: Path, run: Path, objective: str) -> str:
    """The error in which the first step ended whose result is not there; empty where none did."""
    stages = (
        ("preflight", "preflight.json"),
        (objective, "train.json"),
        ("merge", "merge.json"),
        ("eval", "eval.json"),
    )
    for rule, result in stages:
        log = project / paths.log(rule, run.name)
        if not (run / result).exists() and log.exists():
            return _last_error(log.read_text(errors="replace").splitlines())
    return ""


def _last_error(lines: list[str]) -> str:
    """What ended a log: an error of ours with the lines that follow it, or the last line of a traceback."""
    lines = [line for line in lines if line.strip()][-ENDING:]
    ours = [number for number, line in enumerate(lines) if line.startswith(ERROR)]
    if ours:
        return "\n".join(lines[ours[-1] :]).removeprefix(ERROR)
    return lines[-1].strip() if lines and TRACEBACK.match(lines[-1]) else ""


def _is_held(lock: Path) -> bool:
    """Whether a process holds the lock of a job."""
    if not lock.exists():
        return False
    with lock.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


def _examples(file: Path) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    return pq.read_table(file).to_pylist() if file.exists() else []
