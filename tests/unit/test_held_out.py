"""Held-out rows that are measured while a real stage trains: what is measured, what is kept, where it ends, after a kill too."""

import json
from argparse import Namespace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import write_rows

import compute_logprobs
import tokenize_data
import train_dpo
import train_grpo
import train_kto
import train_orpo
import train_ppo
import train_reward
import train_sft
from posttrain import stage
from posttrain.project import Project
from posttrain.rows import normalise
from posttrain.tokens import tokenise

pytestmark = pytest.mark.usefixtures("in_folder", "signals", "fp32")

SCRIPTS = {
    "sft": train_sft,
    "dpo": train_dpo,
    "kto": train_kto,
    "orpo": train_orpo,
    "reward": train_reward,
    "grpo": train_grpo,
    "rloo": train_grpo,
    "ppo": train_ppo,
}
WORDS = "apple pear plum fig quince".split()
CLOCKS = ("tokens_per_second", "memory_gib", "seconds", "cpu_percent", "gpu_percent")
RULE = "def small(answer, reference):\n    return sum(c.islower() for c in answer) / max(1, len(answer))\n"


class Killed(BaseException):
    """What `kill -9` is to a training, as far as one process can play it."""


def pairs(words: list[str]) -> list[dict]:
    rows = [{"prompt": f"Say {word}.", "chosen": f"{word}, {word}", "rejected": f"no {word[::-1]}"} for word in words]
    return [normalise(row, "preference", {}, "row") | {"id": f"{i} {words[0]}"} for i, row in enumerate(rows)]


def chats(words: list[str]) -> list[dict]:
    rows = [{"prompt": f"Say {word}.", "completion": f"{word}, {word}"} for word in words]
    return [normalise(row, "prompt_completion", {}, "row") | {"id": f"{i} {words[0]}"} for i, row in enumerate(rows)]


UNSEEN = ["cherry", "olive", "lemon"]
SETTINGS = {"from": "base", "batch_size": 4, "max_length": 64, "warmup": 0, "schedule": "constant", "seed": 3}


@pytest.fixture
def train(configuration, random_tiny_folder, random_tiny_tokenizer):
    """Train a run by its script, as the same command does each time; returns its lines, clocks left out, and its train.json."""

    def command(objective: str, **keys) -> tuple[list[dict], dict]:
        shape, make = ("messages", chats) if objective in ("sft", "grpo", "rloo", "ppo") else ("preference", pairs)
        name = {"messages": "chats", "preference": "pairs"}[shape]
        Path("rules.py").write_text(RULE)
        stage.write_json(Path("base.json"), {})
        for place in ("tokens/report.json", "data/data.json"):
            stage.write_json(Path(place), {"shape": shape})
        for split, words in (("train", WORDS), ("validation", UNSEEN)):
            encoded, _ = tokenise(random_tiny_tokenizer, make(words), shape, 64)
            table = pa.Table.from_pylist(encoded, schema=tokenize_data.schema(shape))
            pq.write_table(table, f"tokens/{split}.parquet")
            write_rows(Path(f"data/{split}.parquet"), make(words), shape)
        own = {"objective": objective, "data": name}
        if objective in ("grpo", "rloo", "ppo"):
            own |= {"reward": {"function": "rules.py:small"}, "max_new_tokens": 6, "batch_size": 8}
        spec = Path("results/run/spec.json")
        spec.parent.mkdir(parents=True, exist_ok=True)
        spec.write_text(Project(configuration({"runs": {"run": SETTINGS | own | keys}, "sweeps": {}})).spec("run"))
        paths = {"parent": random_tiny_folder, "manifest": Path("base.json"), "tokens": Path("tokens")}
        if objective == "dpo":
            paths["logprobs"] = Path("logprobs.parquet")
            compute_logprobs.main(Namespace(model=random_tiny_folder, tokens=Path("tokens"), output=paths["logprobs"]))
        options = Namespace(spec=spec, **paths, data=Path("data"), held_out=[Path("data/validation.parquet")])
        SCRIPTS[objective].main(options)
        return lines(), stage.read_json(Path("results/run/train.json"))

    return command


def lines() -> list[dict]:
    found = [json.loads(line) for line in Path("results/run/train.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in CLOCKS} for line in found]


def hashes() -> dict[str, str]:
    return stage.folder_hashes(Path("results/run/trained"))


def test_try(train):
    found, summary = train("sft", keep="best", learning_rate=0.03, max_steps=20, measure_every=2)
    for line in found:
        print(line)
    print(summary)
