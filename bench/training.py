"""SFT and DPO beside TRL's own trainers with their defaults: the same model, rows, batch and LoRA, in one run.

    python bench/training.py

Ours are the workflow's stages; TRL's side is bench/trl_train.py, in which only what the machine forces differs from
`trl sft` and `trl dpo` (no bf16 where the processor has none). The first two steps of each are not counted. SFT's rows are
one to four of the shipped GSM8K questions with their answers, drawn at random, so of mixed length; DPO's the shipped pairs,
and what our reference log-probabilities cost is part of our time. SFT is run with two seeds on each side. Printed beside the
ratios: the held-out losses, and the rate of the machine's own matrix multiplication at the model's shapes.
"""

import json
import random
import re
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import yaml
from aims import tell
from common import BASE, CORES, REPOSITORY, parser, project, snakemake, timed

STEPS = {"sft": 5, "dpo": 4}
SKIPPED = 2
BATCH = 4
ROWS, HELD_OUT = 400, 8
SEEDS = {42: "sft", 43: "sft,seed=43"}


def main() -> None:
    parser(__doc__).parse_args()
    folder = project()
    write_rows(folder)
    config = folder / "training.yaml"
    config.write_text(yaml.safe_dump(configuration()))
    for name in (*SEEDS.values(), "dpo"):
        shutil.rmtree(folder / f"results/{name}", ignore_errors=True)
    (folder / "results/smollm2/logprobs/pairs,max_length=1024.parquet").unlink(missing_ok=True)

    def build(*targets: str) -> str:
        log = folder / "ours.log"
        timed(snakemake(folder, "--configfile", config, "--cores", CORES, *targets), folder, log)
        return log.read_text()

    build("results/sft/preflight.json", "results/dpo/preflight.json")  # the data are made
    theirs = [run_trl(folder, "sft", seed) for seed in SEEDS]
    build(*(f"results/{name}/train.json" for name in SEEDS.values()))
    ours = [counted(folder / f"results/{name}/train.jsonl") for name in SEEDS.values()]
    for side, runs in (("ours", ours), ("trl", theirs)):
        told = [
            f"{run['tokens']:.1f} tokens/s, {run['memory']:.2f} GiB, held-out loss {run['held_out']:.4f}"
            for run in runs
        ]
        print(f"sft: {side} " + "; ".join(told), flush=True)
    ours, theirs = (sum(run["tokens"] for run in runs) / len(runs) for runs in (ours, theirs))
    tell("sft tokens/s, ours / trl sft", ours / theirs)
    rate, machine = ours * flop_per_token(folder), matmul_rate()
    print(f"sft: {rate / 1e9:.1f} GFLOP/s of {machine / 1e9:.1f} in matrix multiplication alone")
    tell("sft FLOP/s, ours / matrix multiplication", rate / machine)

    theirs = run_trl(folder, "dpo")
    log = build("results/dpo/train.json")
    ours = counted(folder / "results/dpo/train.jsonl")
    pairs = sum(1 for _ in (folder / "pairs.jsonl").open())
    reference = int(re.search(r"reference log-probabilities of \d+ pairs in (\d+) s", log)[1]) / pairs
    alone = ours["rows"]
    ours["rows"] = 1 / (1 / alone + reference)
    print(f"dpo: {alone:.3f} pairs/s in training, {ours['rows']:.3f} with the reference, trl {theirs['rows']:.3f}")
    print(f"dpo last loss: ours {ours['loss']:.4f}, trl {theirs['loss']:.4f}")
    tell("dpo pairs/s, ours / trl dpo", ours["rows"] / theirs["rows"])
    print(f"dpo peak memory: ours {ours['memory']:.2f} GiB, trl {theirs['memory']:.2f} GiB")
    tell("dpo peak memory, ours / trl dpo", ours["memory"] / theirs["memory"])


def write_rows(folder: Path) -> None:
    """One to four questions in a prompt, their answers in the completion; held out are the test's. And the shipped pairs."""
    chance = random.Random(1)
    for name, part, count in (("train", "train", ROWS), ("held_out", "test", HELD_OUT)):
        lines = (REPOSITORY / f"examples/data/gsm8k_{part}.jsonl").read_text().splitlines()
        questions, rows = [json.loads(line) for line in lines], []
        for i in range(count):
            some = chance.sample(questions, 1 + i * 7 % 4)
            joined = {key: "\n\n".join(row[key] for row in some) for key in ("question", "answer")}
            rows.append({"prompt": joined["question"], "completion": joined["answer"]})
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    shutil.copy(REPOSITORY / "examples/data/gsm8k_pairs.jsonl", folder / "pairs.jsonl")


def configuration() -> dict:
    """Two runs on the demo's base."""
    config = yaml.safe_load((REPOSITORY / "config/examples/gsm8k.yaml").read_text())
    shared = {"from": "smollm2", "method": "lora", "dropout": 0, "batch_size": BATCH}
    sft = {"objective": "sft", "data": "rows", "learning_rate": 5e-4, "max_steps": STEPS["sft"]}
    sft |= {"measure_every": STEPS["sft"]}
    dpo = {"objective": "dpo", "data": "pairs", "learning_rate": 1e-4, "beta": 0.1, "max_steps": STEPS["dpo"]}
    dpo |= {"gradient_checkpointing": True}  # as TRL's default has it
    return {
        "bases": config["bases"],
        "datasets": {
            "rows": {
                "path": "train.jsonl",
                "validation": "held_out.jsonl",
                "near_duplicates": None,
                "licence": "mit",
            },
            "pairs": {
                "path": "pairs.jsonl",
                "format": "preference",
                "columns": {"prompt": "question"},
                "licence": "mit",
            },
        },
        "runs": {"sft": shared | sft, "dpo": shared | dpo},
        "tracking": {"mlflow": False},
    }


def run_trl(folder: Path, objective: str, seed: int = 42) -> dict:
    """TRL's side, in a process of its own, as ours is."""
    script = REPOSITORY / "bench/trl_train.py"
    command = [sys.executable, script, objective, BASE, folder, STEPS[objective], BATCH, seed]
    timed(command, folder, folder / "trl.log")
    return counted(folder / "trl.jsonl")


def counted(file: Path) -> dict:
    """Tokens/s and rows/s after the first steps, the last losses, and the peak memory (GiB), from a line a step."""
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    steps = [line for line in lines if "loss" in line]
    seconds = steps[-1]["seconds"] - steps[SKIPPED - 1]["seconds"]
    return {
        "tokens": (steps[-1]["num_tokens"] - steps[SKIPPED - 1]["num_tokens"]) / seconds,
        "rows": BATCH * (len(steps) - SKIPPED) / seconds,
        "loss": steps[-1]["loss"],
        "held_out": next((line["eval_loss"] for line in lines if "eval_loss" in line), None),
        "memory": steps[-1]["memory_gib"],
    }


def flop_per_token(folder: Path) -> float:
    """Floating-point operations that a token of these rows needs in LoRA's forward and backward pass, on average.

    2 a weight forwards and 2 backwards (a frozen weight has no gradient), 6 a LoRA weight, 4 a weight of the LM head where
    the token is trained on, and attention's two products, of which the causal mask leaves half.
    """
    import pyarrow.parquet as pq

    config, shapes = base_config(), layer_shapes()
    h, layers = config.hidden_size, config.num_hidden_layers
    weights = layers * sum(a * b for a, b in shapes)
    lora = layers * sum(16 * (a + b) for a, b in shapes)
    rows = pq.read_table(next((folder / "results/tokens/smollm2").glob("rows,*/train.parquet"))).to_pylist()
    tokens = sum(len(row["input_ids"]) for row in rows)
    trained = sum(label != -100 for row in rows for label in row["labels"])
    attention = sum(3 * 2 * len(row["input_ids"]) ** 2 * h * layers for row in rows)
    return (4 * weights + 6 * lora) + (4 * h * config.vocab_size * trained + attention) / tokens


def base_config() -> Any:
    """The base's own configuration."""
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(BASE)


def layer_shapes() -> list[tuple[int, int]]:
    """Inputs and outputs of a layer's matrices: queries, keys, values, output, gate, up and down."""
    config = base_config()
    h, m = config.hidden_size, config.intermediate_size
    kv = h * config.num_key_value_heads // config.num_attention_heads
    return [(h, h), (h, kv), (h, kv), (h, h), (h, m), (h, m), (m, h)]


def matmul_rate() -> float:
    """FLOP/s of matrix multiplication in the arithmetic that training uses, over the shapes of a layer."""
    import torch

    sys.path.insert(0, str(REPOSITORY / "scripts"))
    from posttrain.models import loading

    dtype = torch.bfloat16 if loading.precision("auto") == "bf16" else torch.float32
    rows, done, spent = 1024, 0, 0.0
    for repeat in range(6):
        for a, b in layer_shapes():
            x, weight = torch.randn(rows, a, dtype=dtype), torch.randn(b, a, dtype=dtype)
            start = time.perf_counter()
            for _ in range(10):
                x @ weight.T
            if repeat:
                spent += time.perf_counter() - start
                done += 10 * 2 * rows * a * b
    return done / spent


if __name__ == "__main__":
    main()
