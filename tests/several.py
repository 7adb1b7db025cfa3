"""Training stages of a random tiny model by one or several processes, each a fork of the tests' fork server."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from conftest import REPOSITORY, environment

from posttrain.data.rows import normalise
from posttrain.data.tokens import tokenise
from posttrain.objectives import OBJECTIVES
from posttrain.runtime.atomic import read_json, write_json
from posttrain.workflow.project import Project

WORDS = "the cat sat on a mat and asked which of two lights is green or red while it rained".split()
# What differs between two runs of the same training.
CLOCKS = ("tokens_per_second", "memory_gib", "seconds", "cpu_percent", "gpu_percent")


def text(*numbers: int) -> str:
    """Words that the numbers stand for."""
    return " ".join(WORDS[number % len(WORDS)] for number in numbers)


def make(folder: Path, base: Path, rows: int = 11) -> Path:
    """Make a folder with tokens of conversations and of pairs, so many that the last step is not complete; returns it."""
    from posttrain.models import loading
    from tokenize_data import schema

    tokenizer = loading.tokenizer(base)
    given = [
        {"prompt": text(*range(i, 2 * i + 3)), "completion": text(*range(3 * i, 4 * i + 2)), "rejected": text(i, i + 5)}
        for i in range(rows)
    ]
    pairs = [{"chosen": row["completion"], **{key: row[key] for key in ("prompt", "rejected")}} for row in given]
    kinds = {"messages": ("prompt_completion", given), "preference": ("preference", pairs)}
    for shape, (format, values) in kinds.items():
        found = [normalise(row, format, {}, f"row {i}") for i, row in enumerate(values)]
        found = [row | {"id": f"{i:02}"} for i, row in enumerate(found)]
        encoded, _ = tokenise(tokenizer, found, shape, 256)
        write_json(folder / shape / "report.json", {"shape": shape})
        for split, part in (("train", encoded), ("validation", encoded[:5])):
            pq.write_table(pa.Table.from_pylist(part, schema=schema(shape)), folder / shape / f"{split}.parquet")
        if shape == "messages":
            write_json(folder / "prompts/data.json", {"shape": shape})
            pq.write_table(pa.Table.from_pylist(found), folder / "prompts/train.parquet")
    (folder / "rule.py").write_text("def length(completion, reference):\n    return float(len(completion) % 5)\n")
    write_json(folder / "base.json", {"base": "base"})
    (folder / "base").symlink_to(base)
    columns = {name: pa.array([-40.0 - 3 * i for i in range(rows)], pa.float32()) for name in REFERENCE}
    pq.write_table(pa.table(columns), folder / "reference.parquet")
    return folder


REFERENCE = ("ref_chosen_logps", "ref_rejected_logps")
DEFAULTS = {"batch_size": 4, "max_length": 256, "precision": "fp32", "learning_rate": 1e-3, "epochs": 1}


def spec(folder: Path, run: str, objective: str, method: str = "lora", **keys: Any) -> Path:
    """Write the spec of a run; returns its folder."""
    dropout = {"dropout": 0} if method in ("lora", "qlora", "dora") else {}
    table = {"from": "base", "objective": objective, "method": method, "data": "rows"} | DEFAULTS | dropout | keys
    table = {key: value for key, value in table.items() if value is not ...}
    values = {
        "bases": {"base": {"source": "path", "path": "base"}},
        "datasets": {
            "rows": {
                "path": "rows.jsonl",
                "format": "preference" if shape_of(objective) == "preference" else "messages",
            }
        },
        "runs": {run: table},
    }
    (folder / "rows.jsonl").touch()
    file = folder / f"results/{run}/spec.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(Project(values, folder=folder).spec(run))
    return file.parent


def shape_of(objective: str) -> str:
    """The type of the rows that these tests train an objective on."""
    return "messages" if objective == "sft" or OBJECTIVES[objective].on_policy else "preference"


def command(folder: Path, run: str) -> list[str]:
    """The command line of a run's stage."""
    objective = read_json(folder / f"results/{run}/spec.json")["objective"]
    script = REPOSITORY / f"scripts/train_{OBJECTIVES[objective].script or objective}.py"
    paths = {
        "spec": f"results/{run}/spec.json",
        "parent": "base",
        "manifest": "base.json",
        **({"data": "prompts"} if OBJECTIVES[objective].on_policy else {"tokens": shape_of(objective)}),
    }
    paths |= {"logprobs": "reference.parquet"} if objective == "dpo" else {}
    options = [word for name, path in paths.items() for word in (f"--{name}", path)]
    return [sys.executable, str(script), *options, "--log", f"results/logs/{run}.log"]


def settings(processes: int, checkpoint_seconds: float = 60, **hardware: Any) -> dict[str, str]:
    """The environment of a stage."""
    tracking = {"mlflow": False, "checkpoint_seconds": checkpoint_seconds}
    hardware |= {"processes": processes}
    return environment() | {
        "POSTTRAIN_TRACKING": json.dumps(tracking),
        "POSTTRAIN_HARDWARE": json.dumps(hardware),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
    }


def train(folder: Path, run: str, processes: int, checkpoint_seconds: float = 60, **hardware: Any) -> list[dict]:
    """Run a stage to its end; returns the lines of train.jsonl without what the clock decides."""
    done = subprocess.run(
        command(folder, run),
        cwd=folder,
        env=settings(processes, checkpoint_seconds, **hardware),
        capture_output=True,
        text=True,
    )
    log = folder / f"results/logs/{run}.log"
    assert done.returncode == 0, done.stderr + (log.read_text()[-3000:] if log.exists() else "")
    return lines(folder / f"results/{run}")


def lines(run: Path) -> list[dict]:
    """The lines of a run's train.jsonl without what the clock decides."""
    found = map(json.loads, (run / "train.jsonl").read_text().splitlines())
    return [{key: value for key, value in line.items() if key not in CLOCKS} for line in found]


def weights(run: Path) -> dict[str, Any]:
    """What a run has trained."""
    from safetensors.torch import load_file

    return load_file(next((run / "trained").glob("*model.safetensors")))
