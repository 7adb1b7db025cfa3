"""Training, as every objective does it: TRL's arguments from a spec, the order of the rows, checkpoints and resume.

A killed stage goes on from its last whole checkpoint when the same command is typed again, and ends with the same bits.
Checkpoints lie in `results/{run}/checkpoints/{key}/`, outside every declared output, since Snakemake deletes those before
a rerun. The key is the hash of the spec and of every input, so that a changed setting never resumes from the old one's.
"""

import contextlib
import hashlib
import json
import math
import shutil
import signal
import sys
import time
import traceback
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from transformers import AutoConfig, TrainerCallback, set_seed

from posttrain import methods, models, tracking
from posttrain.config import PROMPT_LEARNING, shape_refusal
from posttrain.errors import UserError
from posttrain.head import add_compact_head
from posttrain.rows import read
from posttrain.stage import link, progress, read_json, say, sha256, whole_folder, write_json
from posttrain.tokens import questions

# What a checkpoint must hold; trainer_state.json is written last.
STATE_FILES = ("trainer_state.json", "optimizer.pt", "scheduler.pt", "rng_state.pth")
# Reported for each step, under TRL's names.
REPORTED = (
    "loss learning_rate grad_norm mean_token_accuracy num_tokens rewards/accuracies rewards/margins "
    "rewards/chosen rewards/rejected logps/chosen logps/rejected accuracy margin nll_loss log_odds_chosen "
    "reward reward_std score kl kl_coefficient entropy policy_loss value_loss clip_fraction answer_length "
    "completions/mean_length eval_loss eval_mean_token_accuracy eval_accuracy eval_margin"
).split()


# ---- from the spec to TRL


def row_order(lengths: list[int], batch_size: int, epochs: float, max_steps: int | None, seed: int) -> list[int]:
    """The rows in the order in which they are trained on, all epochs in one list.

    Each epoch is a permutation of its own. Its neighbours are sorted by length and cut into batches, which saves padding,
    and the batches are shuffled. Nothing here depends on the state of a random generator, so a resumed run sees
    the same rows.
    """
    n = len(lengths)
    total = max_steps * batch_size if max_steps else max(1, round(n * epochs))
    passes = math.ceil(total / n)
    order = []
    for epoch in range(passes):
        chance = np.random.default_rng([seed, epoch])
        rows = chance.permutation(n)[: total - len(order)].tolist()
        for start in range(0, len(rows), 8 * batch_size):
            window = sorted(rows[start : start + 8 * batch_size], key=lambda row: lengths[row])
            batches = [window[i : i + batch_size] for i in range(0, len(window), batch_size)]
            tail = batches.pop() if len(batches[-1]) < batch_size else []
            order += [row for i in chance.permutation(len(batches)) for row in batches[i]] + tail
    return order


def read_tokens(file: Path, columns: tuple[str, ...]) -> Any:
    """A Parquet file of tokens as a dataset in memory."""
    import pyarrow.parquet as pq
    from datasets import Dataset

    return Dataset(pq.read_table(file, columns=list(columns)))


def ordered(dataset: Any, spec: dict, lengths: list[int], batch_size: int | None = None) -> Any:
    """The dataset's rows in `row_order`."""
    batch_size = batch_size or spec["batch_size"]
    return dataset.select(row_order(lengths, batch_size, spec["epochs"], spec["max_steps"], spec["seed"]))


def check_shape(report: Path, spec: dict) -> None:
    """Refuse rows of a shape that the objective cannot use; `report` is the one of the data or of its tokens.

    Raises:
        UserError: with the shape that is needed and the objectives that the given one fits.
    """
    refusal = shape_refusal(spec["objective"], spec["data"]["name"], read_json(report)["shape"])
    if refusal:
        raise UserError(f"dataset {refusal}")


def read_questions(options: Namespace, spec: dict, tokenizer: Any) -> list[dict]:
    """The training prompts of an objective that answers them itself, without those that leave no room for an answer.

    Raises:
        UserError: no prompt is left.
    """
    rows = questions(tokenizer, read(options.data / "train.parquet"))
    room = spec["max_length"] - spec["max_new_tokens"]
    kept = [row for row in rows if len(row["prompt_ids"]) <= room]
    name = spec["data"]["name"]
    if not kept:
        raise UserError(
            f"dataset {name}: every prompt is longer than max_length - max_new_tokens = {room} tokens; "
            "write a larger max_length"
        )
    if len(kept) < len(rows):
        say(f"{name}: {len(rows) - len(kept)} of {len(rows)} prompts are longer than {room} tokens, and left out")
    return kept


def judge_files(options: Namespace, spec: dict) -> list[Path]:
    """The files that stand for everything an objective reads that answers prompts itself."""
    names = [spec["reward"][key]["name"] for key in ("from", "sequence", "reference") if key in spec["reward"]]
    manifests = [Path(f"results/{name}/merge.json") for name in names]
    manifests = [file if file.exists() else Path(f"results/bases/{file.parent.name}/base.json") for file in manifests]
    return [options.manifest, options.data / "train.parquet", *manifests]


def trainer_arguments(spec: dict, folder: Path) -> dict[str, Any]:
    """The arguments that all of TRL's configurations share, from a run's spec; its `trainer_args` come last."""
    return {
        "output_dir": str(folder),
        "seed": spec["seed"],
        "learning_rate": spec["learning_rate"],
        "num_train_epochs": 1,  # row_order has all of them
        "train_sampling_strategy": "sequential",
        "per_device_train_batch_size": spec["batch_size"] // spec["accumulation"],
        "gradient_accumulation_steps": spec["accumulation"],
        "warmup_steps": warmup_share(spec["warmup"]),
        "lr_scheduler_type": "constant_with_warmup" if spec["schedule"] == "constant" else spec["schedule"],
        "weight_decay": spec["weight_decay"],
        "max_grad_norm": spec["max_grad_norm"],
        "bf16": models.precision(spec["precision"]) == "bf16",
        "gradient_checkpointing": spec["gradient_checkpointing"],
        "use_cpu": not torch.cuda.is_available(),
        "dataloader_pin_memory": torch.cuda.is_available(),
        "logging_steps": 1,
        "save_strategy": "no",  # Watch decides
        "save_total_limit": 2,
        "report_to": [],
        "disable_tqdm": True,
        **({"optim": "paged_adamw_8bit"} if spec["method"] == "qlora" else {}),
        **spec.get("trainer_args", {}),
    }


def warmup_share(share: float) -> float:
    """Transformers reads a number below 1 as a share of the steps and 1 as one step."""
    return min(share, 1 - 1e-9)


def load_parent(folder: Path, spec: dict) -> Any:
    """The model to train: in float32 where all its weights move, in its own dtype under an adapter, in 4 bits for qlora.

    Seeds every generator as well, since PEFT draws the adapter's first weights before TRL sets any seed.
    """
    set_seed(spec["seed"])
    return models.load(
        folder,
        dtype=torch.float32 if spec["method"] == "full" else "auto",
        quantised=models.precision(spec["precision"]) if spec["method"] == "qlora" else None,
        reward=spec["objective"] == "reward",
    )


def steps(rows: int, batch_size: int) -> int:
    """Optimiser steps of one pass over `rows`."""
    return -(-rows // batch_size)


@contextlib.contextmanager
def refusals(name: str) -> Iterator[None]:
    """Tell in one sentence what PEFT or TRL refuse of `method`, `peft_args` or `trainer_args`.

    Raises:
        UserError: instead of the library's own error, whose traceback goes to the log.
    """
    try:
        yield
    except (TypeError, ValueError, NotImplementedError, ImportError) as error:
        traceback.print_exc()
        raise UserError(f"{name}: method, peft_args or trainer_args: {str(error).strip().splitlines()[0]}") from None


# ---- checkpoints


def work_folder(options: Namespace, inputs: list[Path]) -> Path:
    """The stage's own folder under checkpoints/, keyed by everything that goes into it."""
    spec = read_json(options.spec)
    spec.pop("merge_into", None)  # says what is done with the result
    parts = [json.dumps(spec, sort_keys=True), models.precision(spec["precision"]), *map(sha256, inputs)]
    key = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
    folder = options.spec.parent / "checkpoints" / key
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def last_checkpoint(folder: Path, also: tuple[str, ...] = ()) -> Path | None:
    """The newest checkpoint that is whole, the files `also` included; broken ones, which a kill can leave, are removed."""
    for checkpoint in sorted(folder.glob("checkpoint-*"), key=lambda path: -int(path.name.split("-")[1])):
        if _is_whole(checkpoint, also):
            return checkpoint
        say(f"{checkpoint}: not whole, removed")
        shutil.rmtree(checkpoint)
    return None


def _is_whole(checkpoint: Path, also: tuple[str, ...]) -> bool:
    import zipfile

    from safetensors import SafetensorError, safe_open

    weights = {file.name for file in checkpoint.glob("*.safetensors")}
    if not weights or any(not (checkpoint / name).exists() for name in (*STATE_FILES, *also)):
        return False
    try:
        for index in checkpoint.glob("*.safetensors.index.json"):
            weights |= set(read_json(index)["weight_map"].values())
        for file in weights:
            with safe_open(checkpoint / file, "pt"):
                pass
        for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
            zipfile.ZipFile(checkpoint / name).close()
        step = read_json(checkpoint / "trainer_state.json")["global_step"]
    except (SafetensorError, FileNotFoundError, zipfile.BadZipFile, json.JSONDecodeError):
        return False
    return step == int(checkpoint.name.split("-")[1])


class Watch(TrainerCallback):
    """Tell the person at the terminal, save a checkpoint from time to time and on a signal, stop at a loss that is none."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.folder = name, folder
        self.every = tracking.settings()["checkpoint_seconds"]
        self.stopped_by: int | None = None
        self.began = self.saved = self.stepped = time.monotonic()
        self.tokens = self.first = 0
        self.saving = self.before = 0.0
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._stop)

    def _stop(self, number: int, _: Any) -> None:
        self.stopped_by = number
        signal.signal(number, signal.SIG_DFL)  # the second time it means it
        say(f"{self.name}: stopping after this step; the same command goes on from here")

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Start the clocks where training starts, or go on where a killed stage's stood."""
        self.began = self.saved = self.stepped = time.monotonic()
        self.first = state.global_step
        self.before = max((line.get("seconds", 0.0) for line in state.log_history), default=0.0)
        psutil.cpu_percent()  # the next call tells the use since this one

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Decide whether to save; never after the last step, which ends in the result itself."""
        if state.global_step >= state.max_steps:
            return
        due = time.monotonic() - self.saved >= max(self.every, 20 * self.saving)
        if self.stopped_by or due:
            control.should_save = True
            self.save_began = time.monotonic()
        control.should_training_stop |= self.stopped_by is not None

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Remember how long saving takes, so that it stays below a twentieth of the time."""
        self.saved = time.monotonic()
        self.saving = self.saved - self.save_began

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        """Keep one line a step in train.jsonl, and show where training is.

        Raises:
            UserError: the loss or the gradient is not a number.
        """
        if not state.is_world_process_zero or "loss" not in logs:
            return
        if not (math.isfinite(logs["loss"]) and math.isfinite(logs.get("grad_norm", 0.0))):
            raise UserError(
                f"{self.name}: the loss is {logs['loss']} and the gradient's norm {logs.get('grad_norm')} at step "
                f"{state.global_step}; write a lower learning_rate, a longer warmup or precision: fp32"
            )
        now = time.monotonic()
        speed = (logs.get("num_tokens", 0) - self.tokens) / (now - self.stepped) if self.tokens else None
        self.tokens, self.stepped = logs.get("num_tokens", 0), now
        state.log_history[-1] |= {
            "tokens_per_second": speed and round(speed, 1),
            "memory_gib": memory_gib(),
            "seconds": round(self.before + now - self.began, 2),
            "cpu_percent": psutil.cpu_percent(),
            "gpu_percent": torch.cuda.utilization() if torch.cuda.is_available() else None,
        }
        with (self.folder / "train.jsonl").open("w") as file:
            file.writelines(json.dumps(line) + "\n" for line in history(state.log_history))
        left = (now - self.began) / max(1, state.global_step - self.first) * (state.max_steps - state.global_step)
        reward = f"  reward {logs['reward']:.3f}" if "reward" in logs else ""
        pace = f"  {speed:.0f} tokens/s" if speed else ""
        progress(
            f"{self.name}: step {state.global_step}/{state.max_steps}  loss {logs['loss']:.4f}{reward}{pace}",
            left,
        )


def memory_gib() -> float:
    """Peak memory of this process so far: the GPU's where there is one, else resident memory."""
    if torch.cuda.is_available():
        return round(torch.cuda.max_memory_allocated() / 2**30, 3)
    import resource

    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 3)


def history(log: list[dict]) -> list[dict]:
    """The trainer's log as train.jsonl has it: one line a step, with what is worth keeping.

    An entropy of 0 is one that `add_compact_head` did not compute.
    """
    keep = ("step", *REPORTED, "tokens_per_second", "memory_gib", "seconds", "cpu_percent", "gpu_percent")
    return [
        {key: line[key] for key in keep if line.get(key) is not None and (key != "entropy" or line[key])}
        for line in log
        if "loss" in line or "eval_loss" in line
    ]


# ---- the run itself


def fit(trainer: Any, options: Namespace, folder: Path, spec: dict, policy: Any = None) -> None:
    """Train from the last whole checkpoint to the end, and leave the result in `folder`/finished.

    Args:
        policy: what is saved, where it is not the trainer's whole model.

    Exits with 128 + the signal's number after SIGINT or SIGTERM, with a checkpoint saved.

    Raises:
        UserError: the loss is not a number.
    """
    name = options.spec.parent.name
    model = policy or trainer.model
    if can_be_compact(spec):
        add_compact_head(model.get_base_model() if spec["method"] != "full" else model)
    for parameter in trainer.model.parameters():
        if parameter.requires_grad:  # TRL makes an adapter on 4 bits bf16, which a resumed training would not be
            parameter.data = parameter.data.float()
    trained, total = trainable(model)
    say(
        f"{name}: {spec['objective']}, {spec['method']}: {trained:,} of {total:,} parameters are trained ({trained / total:.2%})"
    )
    keeper = methods.KEEPERS.get(spec["method"]) if policy is None else None
    checkpoint = last_checkpoint(folder, (keeper.FILE,) if keeper else ())
    if keeper:
        trainer.add_callback(keeper(model, checkpoint))
    if spec.get("lora_plus"):
        trainer.optimizer = lora_plus(trainer, spec["lora_plus"])
    watch = Watch(name, folder)
    trainer.add_callback(watch)
    mlflow = tracking.MLflowCallback(name, options.spec, folder) if tracking.settings()["mlflow"] else None
    if mlflow:
        trainer.add_callback(mlflow)
    if checkpoint:
        say(f"{name}: goes on from {checkpoint.name}")
    start = time.monotonic()
    try:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except UserError:
        if mlflow:
            mlflow.close("FAILED")
        raise
    if watch.stopped_by and trainer.state.global_step < trainer.state.max_steps:
        if mlflow:
            mlflow.close("KILLED")
        sys.exit(128 + watch.stopped_by)
    outcome = {
        "trainable_parameters": trained,
        "parameters": total,
        "seconds": round(watch.before + time.monotonic() - start, 2),
        "resumed_from": checkpoint.name if checkpoint else None,
        "mlflow_run_id": mlflow.run_id if mlflow else None,
    }
    _keep(trainer, model, options, folder, spec, outcome)
    if mlflow:
        mlflow.close("FINISHED")
    for old in folder.glob("checkpoint-*"):
        shutil.rmtree(old)


def can_be_compact(spec: dict) -> bool:
    """Whether only the log-probabilities of trained positions are needed, and the model sees tokens."""
    weighted = spec.get("trainer_args", {}).get("use_weighting")  # WPO's weights need what only TRL's head computes
    return spec["objective"] in ("sft", "dpo", "kto") and spec["method"] not in PROMPT_LEARNING and not weighted


def lora_plus(trainer: Any, ratio: float) -> torch.optim.Optimizer:
    """An optimiser that moves B faster than A (Hayou et al. 2024)."""
    from peft.optimizers import create_loraplus_optimizer

    kind, arguments = trainer.get_optimizer_cls_and_kwargs(trainer.args)
    arguments |= {"loraplus_lr_ratio": ratio, "loraplus_weight_decay": trainer.args.weight_decay}
    return create_loraplus_optimizer(model=trainer.model, optimizer_cls=kind, **arguments)


def _keep(trainer: Any, model: Any, options: Namespace, folder: Path, spec: dict, outcome: dict[str, Any]) -> None:
    """Write what training produced to `folder`/finished, whole or not at all."""
    if spec["method"] == "full":
        model.to(AutoConfig.from_pretrained(options.parent, trust_remote_code=False).dtype)
    lines = history(trainer.state.log_history)
    summary = {
        "steps": trainer.state.global_step,
        "loss": next(line["loss"] for line in reversed(lines) if "loss" in line),
        "precision": models.precision(spec["precision"]),
        "threads": torch.get_num_threads(),
        "memory_gib": memory_gib(),
        "memory_of": "gpu" if torch.cuda.is_available() else "process",
    }
    with whole_folder(folder / "finished") as finished:
        only = {} if spec["method"] == "full" else {"selected_adapters": ["default"]}
        model.save_pretrained(finished / "trained", **only)
        (finished / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        write_json(finished / "train.json", summary | outcome)


def trainable(model: Any) -> tuple[int, int]:
    """Numbers of trained and of all parameters; PEFT knows how many a 4-bit weight stands for."""
    if hasattr(model, "get_nb_trainable_parameters"):
        return model.get_nb_trainable_parameters()
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    return sum(size for size, moves in sizes if moves), sum(size for size, _ in sizes)


def publish(options: Namespace, folder: Path) -> None:
    """Put the finished result where the rule declares it, by links."""
    finished = folder / "finished"
    run = options.spec.parent
    with whole_folder(run / "trained") as trained:
        for file in (finished / "trained").iterdir():
            if file.name != "README.md":  # PEFT's empty card; `merge` writes the real one
                link(file, trained / file.name)
    for name in ("train.jsonl", "train.json"):
        (run / name).unlink(missing_ok=True)
        link(finished / name, run / name)
