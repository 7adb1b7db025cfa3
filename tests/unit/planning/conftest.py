"""A small project of random bases, whose shapes and files are known without anything being built."""

import json

import pytest

from posttrain.planning.sizes import Sizes
from posttrain.workflow.project import Project

RUNS = {
    "sft": {"from": "tiny", "objective": "sft", "data": "chats", "rank": 8, "dropout": 0, "batch_size": 4},
    "full": {"from": "tiny", "objective": "sft", "method": "full", "data": "chats", "batch_size": 4},
    "dpo": {"from": "sft", "objective": "dpo", "data": "pairs", "batch_size": 4},
}
VALUES = {
    "bases": {
        "tiny": {"source": "random", "text": "chats", "hidden_size": 64, "layers": 2, "heads": 4, "vocab_size": 512}
    },
    "datasets": {
        "chats": {"path": "chats.jsonl", "format": "prompt_completion", "validation": 0.1},
        "pairs": {"path": "pairs.jsonl", "format": "preference", "validation": 0.1},
    },
    "runs": RUNS,
    "sweeps": {"rank": {"run": "dpo", "over": {"rank": [4, 8]}}},
    "evaluation": {"limit": 10, "answers": 0, "max_new_tokens": 16},
}


@pytest.fixture
def project(in_folder) -> Project:
    """A project with 100 rows of each of its datasets."""
    row = {"prompt": "What is 48 / 2?", "completion": "48 / 2 = 24, so it is 24."}
    pair = {"prompt": row["prompt"], "chosen": row["completion"], "rejected": "It is 25, I think."}
    for name, one in (("chats", row), ("pairs", pair)):
        (in_folder / f"{name}.jsonl").write_text("".join(json.dumps(one | {"id": i}) + "\n" for i in range(100)))
    return Project(VALUES, "config.yaml")


@pytest.fixture
def configured(project):
    """The same project with more in its tables."""
    return lambda changes: Project(
        VALUES | {table: VALUES[table] | values for table, values in changes.items()}, "config.yaml"
    )


@pytest.fixture
def sizes(project) -> Sizes:
    return Sizes(project)
