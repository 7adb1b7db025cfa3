"""The rows of bench/gpu.py's table: each function measures one, in a worker process, and returns its figures.

Training goes the workflow's own way: the functions call the stages' scripts (scripts/train_*.py) on files as the workflow
writes them, and read the train.json and train.jsonl that they leave. TRL's side is its trainers with their defaults.
"""

import contextlib
import gc
import importlib
import itertools
import json
import os
import shutil
import statistics
import sys
import time
from argparse import Namespace
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import gpu_inputs as inputs
from common import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "scripts"))

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, TrainerCallback
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer
from trl.trainer.utils import get_peak_flops

import compute_logprobs
from posttrain.data import rows
from posttrain.inference import scoring
from posttrain.methods import reference_form
from posttrain.models import loading
from posttrain.runtime import atomic
from posttrain.training import arguments as training_arguments
from posttrain.training import loop, results
from posttrain.workflow.project import Project

CUDA = torch.cuda.is_available()
PAIRS = ("dpo", "orpo", "cpo", "kto", "reward")
BATCH_TOKENS = 4096
PACKAGES = "torch transformers trl peft datasets accelerate bitsandbytes flash_attn liger_kernel triton".split()


class Bench:
    """A scratch folder with the models' folders and the rows, made when they are first asked for."""

    def __init__(self, folder: Path, dry: bool) -> None:
        self.folder, self.dry = folder, dry
        self.work = inputs.DRY_WORK if dry else inputs.FULL_WORK
        folder.mkdir(parents=True, exist_ok=True)
        os.chdir(folder)  # a stage looks for results/ here
        for family in (AutoModelForCausalLM, AutoModelForSequenceClassification):
            setattr(loading, family.__name__, inputs.random_weights(family, loading.DEVICE))
        results.take_over = lambda _: False  # rows of the same spec are trained each for itself
        if CUDA:
            torch.cuda.init()
        if dry:
            torch.set_num_threads(1)
            loop.add_compact_head = loop.add_low_rank = lambda *_: None  # a GPU has neither

    def model(self, shape: str) -> Path:
        """The folder of a shape's model."""
        folder = self.folder / "models" / shape
        if not (folder / "tokenizer.json").exists():
            inputs.write_model(folder, shape, self.dry)
        return folder

    def config(self, shape: str) -> dict[str, Any]:
        """A shape's configuration."""
        return inputs.configuration(shape, self.dry)

    def rows(self, objective: str, shape: str) -> Path:
        """The folder with an objective's rows, as `tokens` or `data` leave them."""
        kind = "preference" if objective in PAIRS else "prompts"
        folder = self.folder / "rows" / (f"sft-{shape}" if objective == "sft" else kind)
        if (folder / "report.json").exists():
            return folder
        folder.mkdir(parents=True)
        if objective == "sft":
            write_tables(folder, inputs.sft_rows(self.work, self.config(shape)["vocab_size"]))
        elif objective in PAIRS:
            write_tables(folder, inputs.pair_tokens(loading.tokenizer(self.model(shape)), inputs.pairs(self.work)))
        else:
            write_prompts(folder, self.work)
        for name in ("data.json", "report.json"):
            atomic.write_json(folder / name, {"shape": "preference" if objective in PAIRS else "messages"})
        return folder


def write_tables(folder: Path, columns: dict[str, list]) -> None:
    """Training rows, and the first of them as held-out ones."""
    table = pa.table(columns)
    pq.write_table(table, folder / "train.parquet")
    pq.write_table(table.slice(0, 8), folder / "validation.parquet")


def write_prompts(folder: Path, work: inputs.Work) -> None:
    """Conversations whose first turn is to be answered."""
    found = [
        rows.normalise({"prompt": row["prompt"], "completion": row["chosen"]}, "prompt_completion", {}, f"row {i}")
        for i, row in enumerate(inputs.pairs(work))
    ]
    pq.write_table(pa.Table.from_pylist(found, schema=rows.schema("messages")), folder / "train.parquet")


# ---- the machine


def machine(bench: Bench) -> dict[str, Any]:
    """Rate of a bf16 matrix product, the largest that this machine reaches at three sizes; its name and versions."""
    if not (CUDA or bench.dry):
        raise RuntimeError("torch sees no GPU; --dry-run goes the same way on a CPU")
    best = 0.0
    for n in (256,) if bench.dry else (4096, 8192, 16384):
        a, b = (torch.randn(n, n, device=loading.DEVICE, dtype=torch.bfloat16) for _ in range(2))
        for repeat in range(4):
            wait()
            start = time.perf_counter()
            for _ in range(10):
                a @ b
            wait()
            if repeat:
                best = max(best, 10 * 2 * n**3 / (time.perf_counter() - start))
    name = torch.cuda.get_device_name() if CUDA else "CPU"
    return {
        "flop_per_s": best,
        "note": f"{best / 1e12:.4g} TFLOP/s in bf16",
        "data_sheet": get_peak_flops(name, "bfloat16"),
        "machine": name,
        "cuda": torch.version.cuda,
        "memory_of_gpu_gib": round(torch.cuda.get_device_properties(0).total_memory / 2**30, 1) if CUDA else None,
        "versions": {name: found for name in PACKAGES if (found := installed(name))},
    }


def installed(name: str) -> str | None:
    """A package's version; None where it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def wait() -> None:
    """Until the GPU has done what it was given."""
    if CUDA:
        torch.cuda.synchronize()


def free_memory() -> None:
    """What the row before has left."""
    gc.collect()
    if CUDA:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


# ---- our stages


def options(bench: Bench, name: str, objective: str, method: str, shape: str, **keys: Any) -> Namespace:
    """A run of the workflow with its spec; its folder is emptied."""
    work, run = bench.work, Path("results") / name
    shutil.rmtree(run, ignore_errors=True)
    table = {"from": "base", "objective": objective, "method": method, "data": "rows", "batch_size": work.batch}
    table |= {"max_steps": work.steps, "max_length": work.max_length, "precision": "bf16"} | keys
    data = {"path": "rows.jsonl", "licence": "mit"}
    bases = {"base": {"source": "path", "path": "base", "licence": "mit"}}
    project = Project({"bases": bases, "datasets": {"rows": data}, "runs": {name: table}})
    run.mkdir(parents=True)
    (run / "spec.json").write_text(project.spec(name))
    made, model = bench.rows(objective, shape), bench.model(shape)
    return Namespace(
        reward_models=[],
        spec=run / "spec.json",
        parent=model,
        manifest=model / "config.json",
        tokens=made,
        data=made,
        logprobs=None,
    )


def train(objective: str, given: Namespace) -> list[dict]:
    """Run a stage's script; the lines of its train.jsonl."""
    if CUDA:
        torch.cuda.reset_peak_memory_stats()
    script = "train_grpo" if objective == "rloo" else f"train_{objective}"
    importlib.import_module(script).main(given)
    return [json.loads(line) for line in (given.spec.parent / "train.jsonl").read_text().splitlines()]


def ours(
    bench: Bench,
    shape: str,
    objective: str = "sft",
    method: str = "lora",
    kernels: dict[str, bool] | None = None,
    **keys: Any,
) -> dict[str, Any]:
    """A training stage of the workflow.

    Args:
        kernels: whether `flash` attention and `liger` kernels are taken to be there; by default what is installed.
        keys: of the run.
    """
    given = options(bench, "run", objective, method, shape, **keys)
    reference = score_reference(given, method) if objective == "dpo" else 0.0
    with only(**kernels or {}):
        lines = train(objective, given)
    every = 4 if objective == "ppo" else 1  # a rollout's steps
    marks = [(line["seconds"], line["num_tokens"]) for line in lines[every - 1 :: every]]
    speed = rate(marks[0 if objective == "ppo" else bench.work.skipped - 1 :])
    made = atomic.read_json(given.spec.parent / "train.json")
    notes = [made["attention"], *(name for name in ("padding_free", "use_liger_kernel") if made.get(name))]
    if made["attempts"]:
        notes.append(f"out of memory at first, then {made['micro_batch']} rows at once")
    if reference:
        trained = lines[-1]["num_tokens"] / (len(lines) * bench.work.batch) * bench.work.rows / speed
        notes.append(f"the reference takes {reference / (reference + trained):.0%} of the time")
        speed *= trained / (reference + trained)
    return figures(bench, shape, objective, method == "full", speed, ", ".join(notes))


def rate(marks: list[tuple[float, float]]) -> float:
    """Tokens a second: the median of the steps, since kernels are compiled in some of them.

    Args:
        marks: seconds and tokens since the start, after each step.
    """
    steps = [(after - before) / max(end - begin, 1e-4) for (begin, before), (end, after) in itertools.pairwise(marks)]
    return statistics.median(steps)


def score_reference(given: Namespace, method: str = "lora") -> float:
    """Write the reference's log-probabilities; the seconds that it takes, the loading of the model left out."""
    form = reference_form(method, "bf16", {}, of_run=False)
    given.logprobs = Path(f"results/base/logprobs/rows{form}.parquet")
    plain, taken = scoring.log_probs, []

    def clocked(*asked: Any) -> list[tuple[float, int]]:
        start = time.perf_counter()
        found = plain(*asked)
        wait()
        taken.append(time.perf_counter() - start)
        return found

    scoring.log_probs = clocked
    try:
        compute_logprobs.main(Namespace(model=given.parent, tokens=given.tokens, output=given.logprobs))
    finally:
        scoring.log_probs = plain
    return sum(taken)


@contextlib.contextmanager
def only(flash: bool | None = None, liger: bool | None = None) -> Iterator[None]:
    """Let training choose as if these kernels were installed, or were not."""
    names = {"is_flash_attn_2_available": flash, "is_liger_kernel_available": liger}
    before = {name: getattr(training_arguments, name) for name in names}
    for name, there in names.items():
        if there is not None:
            setattr(training_arguments, name, lambda there=there: there)
    try:
        yield
    finally:
        for name, function in before.items():
            setattr(training_arguments, name, function)


def figures(bench: Bench, shape: str, objective: str, full: bool, speed: float, note: str = "") -> dict[str, Any]:
    """A training's row: tokens/s, peak memory, floating-point operations a second (not of ppo, which also samples)."""
    found = {"tokens_per_s": speed, "memory_gib": results.memory_gib(), "note": note}
    if objective == "ppo":
        return found
    if objective == "sft":
        columns = inputs.sft_rows(bench.work, bench.config(shape)["vocab_size"])
        lengths, trained = columns["length"], [sum(x != -100 for x in row) for row in columns["labels"]]
    else:
        table = pq.read_table(bench.rows("dpo", shape) / "train.parquet").to_pylist()
        sides = [(row["prompt_ids"], row[side]) for row in table for side in ("chosen_ids", "rejected_ids")]
        lengths, trained = [len(a) + len(b) for a, b in sides], [len(b) for _, b in sides]
    cost = inputs.flop_per_token(bench.config(shape), full, lengths, trained)
    return found | {"flop_per_s": speed * cost}


# ---- TRL's own


class Speed(TrainerCallback):
    """Tokens and seconds after the first steps."""

    def __init__(self, skipped: int) -> None:
        self.skipped, self.trainer = skipped, None
        self.marks: list[tuple[float, float]] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Look at the clock."""
        if state.global_step >= self.skipped:
            wait()
            self.marks.append((time.perf_counter(), self.trainer._total_train_tokens))


def trl(bench: Bench, shape: str, objective: str = "sft", dtype: str = "float32") -> dict[str, Any]:
    """`trl sft` or `trl dpo` on the same rows with the same LoRA; the rest is TRL's default, weights in float32 included."""
    model = loading.AutoModelForCausalLM.from_pretrained(bench.model(shape), dtype=getattr(torch, dtype))
    if CUDA:
        torch.cuda.reset_peak_memory_stats()
    work, speed = bench.work, Speed(bench.work.skipped)
    shared = {"output_dir": "results/trl", "max_steps": work.steps, "report_to": [], "save_strategy": "no"}
    shared |= {"per_device_train_batch_size": work.batch, "disable_tqdm": True, "use_cpu": not CUDA}
    lora = LoraConfig(task_type="CAUSAL_LM", r=16, lora_alpha=32, lora_dropout=0.05, target_modules="all-linear")
    given = {"model": model, "processing_class": loading.tokenizer(bench.model(shape)), "peft_config": lora}
    given["callbacks"] = [speed]
    if objective == "sft":
        columns = inputs.sft_rows(work, bench.config(shape)["vocab_size"])
        table = Dataset.from_dict({name: columns[name] for name in ("input_ids", "labels")})
        trainer = SFTTrainer(args=SFTConfig(**shared), train_dataset=table, **given)
    else:
        trainer = DPOTrainer(args=DPOConfig(**shared), train_dataset=Dataset.from_list(inputs.pairs(work)), **given)
    speed.trainer = trainer
    trainer.train()
    attention = model.config._attn_implementation
    note = f"{attention}, weights in {dtype}, gradient checkpointing"
    return figures(bench, shape, objective, False, rate(speed.marks), note)


# ---- answers and scores


def prompts(bench: Bench) -> list[list[int]]:
    """Prompts of mixed length as token ids."""
    columns = inputs.sft_rows(bench.work._replace(rows=bench.work.prompts), 256)
    return [row[: len(row) // 2] for row in columns["input_ids"]]


def generated(bench: Bench, shape: str, plain: bool = False) -> dict[str, Any]:
    """Greedy answers by `scoring.generate`, or by transformers' own `generate` in padded batches of 8."""
    model, tokenizer = loading.load(bench.model(shape)).eval(), loading.tokenizer(bench.model(shape))
    model.generation_config.eos_token_id = inputs.EOS
    asked, new = prompts(bench), bench.work.new_tokens

    def answer(some: list[list[int]], tokens: int) -> None:
        if not plain:
            scoring.generate(model, tokenizer, some, tokens)
            return
        for start in range(0, len(some), 8):
            batch = {"input_ids": some[start : start + 8]}
            padded = tokenizer.pad(batch, padding_side="left", return_tensors="pt").to(loading.DEVICE)
            model.generate(**padded, max_new_tokens=tokens, do_sample=False, pad_token_id=inputs.PAD)

    speed = timed(lambda: answer(asked[:2], 4), lambda: answer(asked, new), len(asked) * new)
    return {
        "tokens_per_s": speed,
        "memory_gib": results.memory_gib(),
        "note": f"{len(asked)} prompts, {new} new tokens",
    }


def scored(bench: Bench, shape: str, plain: bool = False, precision: str = "bf16") -> dict[str, Any]:
    """Log-probabilities of answers by `scoring.log_probs`, or of padded batches of 8 with all their logits."""
    model = loading.load(bench.model(shape), torch.float32 if precision == "fp32" else "auto").eval()
    model.arithmetic = precision
    columns = inputs.sft_rows(bench.work, bench.config(shape)["vocab_size"])
    sequences = [tuple(map(tuple, row)) for row in zip(columns["input_ids"], columns["labels"], strict=True)]

    @torch.no_grad()
    def score(some: list[Any]) -> None:
        if not plain:
            scoring.log_probs(model, some, BATCH_TOKENS)
            return
        for start in range(0, len(some), 8):
            batch = some[start : start + 8]
            width = max(len(ids) for ids, _ in batch)
            ids, labels = (
                torch.tensor([[*row[side], *[pad] * (width - len(row[side]))] for row in batch], device=loading.DEVICE)
                for side, pad in ((0, inputs.PAD), (1, -100))
            )
            mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row, _ in batch], device=loading.DEVICE)
            found = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1].float()
            targets = labels[:, 1:].clamp(min=0)
            chosen = found.log_softmax(-1).gather(2, targets[..., None])[..., 0]
            (chosen * (labels[:, 1:] != -100)).sum(1).tolist()

    speed = timed(lambda: score(sequences[:8]), lambda: score(sequences), sum(columns["length"]))
    return {"tokens_per_s": speed, "memory_gib": results.memory_gib(), "note": f"{len(sequences)} rows"}


def timed(warm_up: Any, measured: Any, tokens: int) -> float:
    """Tokens a second of the second of two calls."""
    warm_up()
    wait()
    start = time.perf_counter()
    measured()
    wait()
    return tokens / (time.perf_counter() - start)
