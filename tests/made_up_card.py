"""Results as the stages leave them of an SFT and a DPO run with all that a card reads: what cards and publishing are tested on."""

from pathlib import Path

import made_up_results
from conftest import write_rows

from posttrain.data.rows import normalise
from posttrain.provenance.records import sealed
from posttrain.runtime.atomic import read_json, write_json
from posttrain.runtime.hashes import folder_hashes, sha256

LICENCES = {"bases.base": "apache-2.0", "datasets.chats": None, "datasets.sums": "mit"}
CONTEXT = {"licences": LICENCES, "price_per_hour": 2.0, "currency": "EUR", "watts": None}
KOREAN = [
    (
        "사과가 몇 개 있습니까? 바구니에 세 개가 있고 식탁에 두 개가 더 있습니다.",
        "모두 다섯 개의 사과가 있습니다. 참 쉽습니다.",
    )
]
ENGLISH = [
    ("What is the capital of France, and why do so many people visit it?", "It is Paris, which is known for its art.")
]
SETTINGS = {"stage": "sft", "version": 3, "tokens": 3, "rank": 16, "batch_size": 4, "learning_rate": 5e-5, "max_length": 1024,
            "gradient_checkpointing": False, "max_steps": None, "peft_args": {}, "trainer_args": {"optim": "adamw_torch"}}  # fmt: skip


def write(objective: str = "dpo", method: str = "lora", hub: str | None = "org/model") -> None:
    """Leave the run `sft_0`, of a base from the hub on the mixture `mixed`, and the run `dpo_1` of it on the dataset `chats`."""
    made_up_results.write(2)
    write_run("sft_0", "base", "mixed", "sft", "lora")
    write_run("dpo_1", "sft_0", "chats", objective, method)
    base = (
        {"source": "hub", "model": hub, "revision": "main"}
        if hub
        else {"source": "path", "path": "/home/anna/models/x"}
    )
    write_json(Path("results/bases/base/spec.json"), base)
    write_json(
        Path("results/bases/base/base.json"), {"files": {}, "licence": "mit"} | ({"base_model": hub} if hub else {})
    )
    write_data(
        "chats",
        KOREAN,
        {"hub": "org/대화" if hub is None else "org/chats", "revision": "v1", "split": "train"},
        "cc-by-4.0",
    )
    write_data("sums", ENGLISH, {"path": "/home/anna/비밀/합계 <b>|`x`.jsonl", "hub": None}, None)
    parts = {"chats": {"train": 1, "validation": 0}, "sums": {"train": 2, "validation": 0}}
    mix = {"mix": [{"name": "chats", "spec": "0"}, {"name": "sums", "spec": "0"}]}
    write_data(
        "mixed",
        ENGLISH,
        mix,
        None,
        parts=parts,
        dropped={"repeated": 3},
    )
    suites = {
        "safety": {"kind": "safety", "limit": 8},
        "say": {"kind": "generation", "data": {"name": "chats"}, "limit": 20},
    }
    write_json(Path("results/dpo_1/eval/spec.json"), {"suites": suites})


def write_run(name: str, parent: str, data: str, objective: str, method: str) -> None:
    """The spec of a run."""
    spec = SETTINGS | {"objective": objective, "method": method, "from": {"name": parent, "spec": "0"}}
    write_json(
        Path(f"results/{name}/spec.json"), spec | {"data": {"name": data, "spec": "0"}, "loss_type": ["sigmoid", "sft"]}
    )


def write_data(name: str, rows: list[tuple[str, str]], spec: dict, licence: str | None, **record) -> None:
    """The spec, the record and the training rows of a dataset."""
    folder = Path(f"results/data/{name}")
    write_json(folder / "spec.json", {"system": None} | spec)
    counts = {"train": 1000, "validation": 60, "dropped": {"fault": 8, "repeated": 0}}
    write_json(folder / "data.json", counts | {"licence": licence} | record)
    turns = [{"prompt": prompt, "completion": completion} for prompt, completion in rows * 3]
    write_rows(folder / "train.parquet", [normalise(row, "prompt_completion", {}, "row") for row in turns])


def change(file: str, **values) -> None:
    """Change keys of a JSON file under results/."""
    path = Path("results", file)
    write_json(path, read_json(path) | values)


def write_proof(kind: str, run: str = "dpo_1", files: dict[str, str] | None = None, **values) -> Path:
    """An export with a weight and further text files in it, and its proof; returns its folder."""
    folder = Path(f"results/{run}/export/{kind}")
    folder.mkdir(parents=True)
    (folder / f"{run}.gguf").write_bytes(b"GGUF" + bytes(100))
    for name, text in (files or {}).items():
        (folder / name).write_text(text)
    interval = {"value": 1.01, "low": 0.99, "high": 1.03}
    proof = {"program": "llama.cpp", "program_version": "b1 (`x|y`)", "size_bytes": 104, "load_seconds": 1.0,
             "greedy_agreement": interval | {"value": 0.97}, "perplexity_ratio": interval, "tokens_per_second": 50.0,
             "against": {run: {"exact_match": {"verdict": "worse"}, "perplexity": {"verdict": "no evidence"}}},
             "files": folder_hashes(folder), "reference": "0", "spec": "0",
             "manifest": sha256(Path(f"results/{run}/merge.json"))}  # fmt: skip
    write_json(folder.with_name(f"{kind}.json"), sealed(proof | values))
    return folder
