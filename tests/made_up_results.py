"""Results as the stages leave them, of any number of runs, made up in no time: what the report is tested on."""

import json
import math
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from posttrain.runtime.atomic import write_json

SCRIPT = "<script>document.title = 'x & y'</script>"
THOUGHT = f"<think>\nFive and two? {SCRIPT}\n</think>\n\n"
HASH = "ab" * 32
TEXTS = ("suite", "dataset", "id", "prompt", "reference", "output")
NUMBERS = ("log_prob", "tokens", "exact_match", "format_followed", "refusal")
WORDS = "There are three apples and two pears so he has five pieces of fruit in all".split()
KINDS = ("sft", "dpo", "reward", "ppo")


def write(runs: int, steps: int = 30) -> dict:
    """Leave the results of a base and that many runs under results/; returns the report's context."""
    models = [{"name": "base", "kind": "base", "parent": None, "also": []}, *map(_model, range(runs))]
    for index, model in enumerate(models):
        folder = Path("results") / model["name"]
        (folder / "eval").mkdir(parents=True)
        write_examples(folder / "eval/examples.parquet", index)
        write_json(folder / "eval.json", evaluation(model, index))
        model["command"] = f"snakemake --cores 2 results/{model['name']}/eval.json"
        if model["kind"] == "run":
            write_training(folder, model, steps)
    write_json(Path("results/data/chats/report.json"), data())
    return {
        "config": "config/config.yaml",
        "models": models,
        "datasets": ["chats", "not_built"],
        "sweeps": {"rank": ["dpo_1,rank=4", "dpo_1"]},
        "ratings": ["sft_0~dpo_1"],
        "price_per_hour": 2.0,
        "currency": "EUR",
        "watts": None,
    }


def _model(index: int) -> dict:
    """Runs in fours: an SFT run of the base, a DPO and a reward run of it, and a PPO run of the first, by the second."""
    first, kind = index - index % 4, KINDS[index % 4]
    rank = f",rank={2 ** (first // 4 % 8)}" if first > 8 else ""
    parent = "base" if kind == "sft" else f"sft_{first}"
    also = [f"reward_{first + 2}{rank}"] if kind == "ppo" else []
    licences = {"bases.base": "apache-2.0", "datasets.chats": "cc-by-nc-4.0" if kind == "dpo" else "mit"}
    name = f"{kind}_{index}" + ("" if kind == "sft" else rank)
    return {"name": name, "kind": "run", "parent": parent, "also": also, "data": "chats", "objective": kind,
            "method": "lora", "licences": licences}  # fmt: skip


def evaluation(model: dict, index: int) -> dict:
    """An eval.json: perplexity better, format worse, no evidence for the rest; a reward run has its own metric alone."""
    if model.get("objective") == "reward":
        metrics = {"reward_accuracy": {"value": 0.75, "low": 0.5, "high": 0.9, "n": 20}}
        return {"run": model["name"], "spec": HASH, "metrics": metrics, "against": {}, "seconds": 30.0}
    value = 5 - index / (index + 2)
    metrics = {
        "safety/refusal": {"value": 0.5, "low": 0.15, "high": 0.85, "n": 8, "clusters": 8},
        "perplexity": {"value": value, "low": value - 1, "high": value + 1, "n": 20},
        "exact_match": {"value": 0.0, "low": 0.0, "high": 0.17, "n": 20},
        "format_followed": {"value": 0.5, "low": 0.3, "high": 0.7, "n": 60, "clusters": 20},
    }
    rows = {
        "perplexity": {"difference": -0.5, "low": -0.75, "high": -0.25, "p": 0.0004, "verdict": "better"},
        "format_followed": {"difference": -0.25, "low": -0.5, "high": -0.125, "p": 0.03, "verdict": "worse"},
        "exact_match": {"difference": 0.0, "low": 0.0, "high": 0.0, "p": 1.0, "verdict": "no evidence",
                        "detectable": 0.3},
        "safety/refusal": {"difference": 0.02, "low": -0.03, "high": 0.07, "p": 0.6, "verdict": "no evidence",
                           "detectable": None},
    }  # fmt: skip
    by_dataset = {
        name: {"perplexity": metrics["perplexity"] | {"value": value + i, "n": 10}}
        for i, name in enumerate(("chats", "sums"))
    }
    others = dict.fromkeys(name for name in (model["parent"], "base" if model["parent"] else None) if name)
    return {"run": model["name"], "spec": HASH, "metrics": metrics, "by_dataset": by_dataset,
            "by_part": {"sums": {"easy": {"perplexity": metrics["perplexity"] | {"value": value + 2}}}},
            "against": dict.fromkeys(others, rows),
            "seconds": 90.0}  # fmt: skip


def write_examples(path: Path, index: int) -> None:
    """Twelve answers, some with markup or thoughts, whose scores and words change from model to model; two rows without an answer."""
    draw = random.Random(index)
    rows = []
    for i in range(14):
        words = [word if draw.random() < 0.8 else draw.choice(WORDS) for word in WORDS]
        rows.append(
            {"suite": "safety" if i > 11 else "", "dataset": "chats", "id": f"{i:02}" * 32,
             "prompt": f"Question {i}: {SCRIPT}", "reference": "#### 5" if i % 2 else None,
             "output": None if i > 11 else THOUGHT * (i < 2) + " ".join(words) + SCRIPT * (i == 0),
             "log_prob": -9.0, "tokens": 4.0,
             "exact_match": 0.0, "format_followed": float(draw.random() < 0.5), "refusal": 1.0 if i > 11 else None}
        )  # fmt: skip
    schema = pa.schema([(name, pa.string()) for name in TEXTS] + [(name, pa.float64()) for name in NUMBERS])
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)


def write_training(folder: Path, model: dict, steps: int) -> None:
    """What training, merging and the preflight leave."""
    name = model["name"]
    spec = {"objective": model["objective"], "method": model["method"], "from": {"name": model["parent"]}, "data": {"name": model["data"]},
            "learning_rate": 1e-4, "epochs": 1.0, "max_steps": None, "batch_size": 8, "accumulation": 1, "max_length": 1024,
            "warmup": 0.1, "schedule": "cosine", "max_grad_norm": 1.0, "gradient_checkpointing": False, "beta": 0.1}  # fmt: skip
    write_json(folder / "spec.json", spec)
    (folder / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines(model["objective"], steps)))
    train = {"steps": steps, "loss": 0.5, "precision": "bf16", "threads": 8, "memory_gib": 12.5, "memory_of": "GPU",
             "trainable_parameters": 4884480, "parameters": 139399488, "seconds": 3600.0, "resumed_from": None,
             "mlflow_run_id": "cd" * 16}  # fmt: skip
    write_json(folder / "train.json", train)
    proof = {"max_abs_logit_difference": 9.2e-5, "mean_abs_logit_difference": 1e-6, "greedy_agreement": 1.0, "n": 395,
             "effect": 0.5, "relative": 2e-6, "dtype": "float32"}  # fmt: skip
    write_json(folder / "merge.json", proof | {"shipped": proof | {"relative": 0.12, "dtype": "bfloat16"}})
    checks = [{"name": "empty", "severity": None, "result": "passed", "message": "", "example": ""},
              {"name": "packing", "severity": None, "result": "skipped", "message": "no rows are packed", "example": ""},
              {"name": "rank", "severity": "warning", "result": "warning", "message": f"high {SCRIPT}", "example": ""},
              {"name": "overlap", "severity": "error", "result": "allowed", "message": "3 rows", "example": ""}]  # fmt: skip
    write_json(folder / "preflight.json", {"run": name, "passed": True, "checks": checks})
    provenance = {"spec": HASH, "parent": {"name": model["parent"], "files": {}}, "tokens": {"train": HASH},
                  "training": train, "versions": {"torch": "2.13.0", "trl": "1.16.0"}, "python": "3.11.7",
                  "code": {"commit": "ab" * 20, "scripts": HASH}, "command": "snakemake", "trained": {},
                  "machine": {"platform": "Linux", "threads": 8, "gpu": "NVIDIA H100 80GB HBM3"},
                  "model": {"config.json": HASH, "model.safetensors": HASH}}  # fmt: skip
    write_json(folder / "provenance.json", provenance)


def lines(objective: str, steps: int) -> list[dict]:
    """A train.jsonl whose validation loss turns at two thirds, with one spike of the gradient norm."""
    found = []
    for step in range(1, steps + 1):
        line = {"step": step, "loss": 2 * math.exp(-2 * step / steps), "learning_rate": 1e-4 * (1 - step / steps),
                "grad_norm": 99.0 if step == steps // 2 else 1 + math.sin(step), "num_tokens": 100.0 * step,
                "tokens_per_second": None if step == 1 else 900 + step % 7, "memory_gib": 12.5, "seconds": 2.0 * step,
                "cpu_percent": 50.0, "gpu_percent": 90.0 + step % 5}  # fmt: skip
        if objective == "dpo":
            line |= {"rewards/chosen": step / 99, "rewards/rejected": -step / 99, "rewards/margins": step / 50}
        if objective == "ppo":
            line |= {"reward": step / steps, "kl": float("nan") if step == 1 else 0.1}
        if step % max(1, steps // 6) == 0:
            line["eval_loss"] = 1 + (step / steps - 2 / 3) ** 2
        found.append(line)
    return found


def data() -> dict:
    """A data report's part that the page shows."""
    return {"rows": 1068, "train": 1000, "validation": 60, "dropped": {"fault": 8}, "warnings": [f"Look: {SCRIPT}"]}
