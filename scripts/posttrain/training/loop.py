"""Training, as every objective does it: TRL's arguments from a spec, the order of the rows, the watch, the result.

A killed stage goes on from its last whole checkpoint when the same command is typed again, and ends with the same bits.
Checkpoints lie in `results/{run}/checkpoints/{key}/`, outside every declared output, since Snakemake deletes those before
a rerun. The key is the hash of the spec and of every input, so that a changed setting never resumes from the old one's.
"""

import contextlib
import gc
import hashlib
import json
import math
import signal
import sys
import time
import traceback
from argparse import Namespace
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import torch
from transformers import TrainerCallback, set_seed
from transformers.utils import is_flash_attn_2_available, is_liger_kernel_available

from posttrain.data.row_order import EvenWeights, row_order
from posttrain.data.rows import read
from posttrain.data.tokens import questions
from posttrain.inference import positions
from posttrain.methods import METHODS
from posttrain.models import initial_weights, loading, out_of_memory, parameter_patterns, peft_methods
from posttrain.models.base_inspection import first_line
from posttrain.models.lm_head import add_compact_head
from posttrain.models.lora_linear import add_low_rank
from posttrain.objectives import OBJECTIVES, data_refusal
from posttrain.runtime.atomic import link, read_json, whole_folder, write_json
from posttrain.runtime.console import progress, say
from posttrain.runtime.errors import UserError
from posttrain.runtime.hashes import sha256
from posttrain.runtime.script import end_at_once, on_signals
from posttrain.runtime.storage_faults import storage_fault
from posttrain.training import checkpoints, early_stopping, held_out, keeping, mlflow_tracking, neftune, trackers
from posttrain.training.warm_up import WarmUp

# Reported for each step, under TRL's names.
REPORTED = (
    "loss learning_rate grad_norm mean_token_accuracy num_tokens rewards/accuracies rewards/margins "
    "rewards/chosen rewards/rejected logps/chosen logps/rejected accuracy margin nll_loss log_odds_chosen "
    "reward reward_std score kl kl_coefficient entropy policy_loss value_loss clip_fraction answer_length "
    "completions/mean_length completions/clipped_ratio clip_ratio/region_mean cispo_clip_ratio"
).split()


# ---- from the spec to TRL


def read_columns(file: Path, columns: tuple[str, ...]) -> list[list]:
    """Columns of a Parquet file."""
    import pyarrow.parquet as pq

    return [column.to_pylist() for column in pq.read_table(file, columns=list(columns)).columns]


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
    refusal = data_refusal(spec["objective"], spec["data"]["name"], read_json(report)["shape"])
    if refusal:
        raise UserError(refusal)


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


def check_positions(model: Any, asked: list[dict], spec: dict) -> None:
    """Refuse prompts and answers that go beyond the positions that a model has learnt.

    Raises:
        UserError: before a step is taken.
    """
    longest = max(len(row["prompt_ids"]) for row in asked) + spec["max_new_tokens"] + spec.get("virtual_tokens", 0)
    positions.check(model, longest, f"dataset {spec['data']['name']}")


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
        **({"per_device_eval_batch_size": out_of_memory.micro_batch(spec)} if early_stopping.plan(spec) else {}),
        "warmup_steps": warmup_share(spec["warmup"]),
        "lr_scheduler_type": "constant_with_warmup" if spec["schedule"] == "constant" else spec["schedule"],
        "weight_decay": spec["weight_decay"],
        "max_grad_norm": spec["max_grad_norm"],
        "bf16": loading.precision(spec["precision"]) == "bf16",
        "gradient_checkpointing": spec["gradient_checkpointing"],
        "use_cpu": not torch.cuda.is_available(),
        "dataloader_pin_memory": torch.cuda.is_available(),
        "logging_steps": 1,
        "logging_nan_inf_filter": False,  # it would put a number where there is none
        "save_strategy": "no",  # Watch decides
        "report_to": [],
        "disable_tqdm": True,
        **({"optim": "paged_adamw_8bit"} if spec["method"] == "qlora" else {}),
        **kernels(spec),
        **spec.get("trainer_args", {}),
    }


def flash(spec: dict) -> bool:
    """Whether SFT uses Flash Attention: in bf16 on a GPU, where it is installed.

    The other objectives compare with log-probabilities that were computed with torch's own attention.
    """
    able = torch.cuda.is_available() and is_flash_attn_2_available() and loading.precision(spec["precision"]) == "bf16"
    return able and spec["objective"] == "sft" and not METHODS[spec["method"]].virtual_tokens


def kernels(spec: dict) -> dict[str, bool]:
    """What makes SFT on a GPU faster with the same results, by what is installed; `trainer_args` has the last word.

    Only Flash Attention keeps rows apart that lie in one sequence, so only with it are they laid end to end without padding.
    Liger replaces the forward pass of the feed-forward block, which `adapter` has wrapped in a layer of its own.
    """
    if not torch.cuda.is_available() or spec["objective"] != "sft":
        return {}
    liger = is_liger_kernel_available() and spec["method"] != "adapter"
    return {"padding_free": flash(spec), "use_liger_kernel": liger}


def warmup_share(share: float) -> float:
    """Transformers reads a number below 1 as a share of the steps and 1 as one step."""
    return min(share, 1 - 1e-9)


def load_parent(folder: Path, spec: dict) -> Any:
    """The model to train, see `models.parent`.

    Seeds every generator as well, since PEFT draws the adapter's first weights before TRL sets any seed.
    """
    set_seed(spec["seed"])
    return loading.parent(
        folder,
        spec,
        reward=spec["objective"] == "reward",
        attention="flash_attention_2" if flash(spec) else None,
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
        raise UserError(f"{name}: method, peft_args or trainer_args: {first_line(error)}") from None


# ---- checkpoints


def work_folder(options: Namespace, inputs: list[Path]) -> Path:
    """The stage's own folder under checkpoints/, keyed by everything that goes into it."""
    spec = read_json(options.spec)
    for key in ("merge_into", "save_precision"):  # they say what is done with the result
        spec.pop(key, None)
    chosen = [loading.precision(spec["precision"]), *kernels(spec).items()]
    inputs = [*inputs, *held_out.inputs(options, spec)]
    parts = [json.dumps(spec, sort_keys=True), *map(str, chosen), *map(sha256, inputs)]
    key = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
    folder = options.spec.parent / "checkpoints" / key
    folder.mkdir(parents=True, exist_ok=True)
    return folder


class Watch(TrainerCallback):
    """Tell the person at the terminal, save a checkpoint from time to time and on a signal, stop at a loss that is none.

    Args:
        rows_of: the rows of an optimiser step, by its number from 1.
    """

    def __init__(self, name: str, folder: Path, rows_of: Callable[[int], list[str]]) -> None:
        self.name, self.folder, self.rows_of = name, folder, rows_of
        self.every = mlflow_tracking.settings()["checkpoint_seconds"]
        self.stopped_by: int | None = None
        self.listening = self.ended = False
        self.began = self.saved = self.stepped = time.monotonic()
        self.tokens = 0
        self.saving = self.before = 0.0

    def _stop(self, number: int, _: Any) -> None:
        self.stopped_by = number
        signal.signal(number, signal.SIG_DFL)  # the second time it means it
        after = "this step; the same command goes on from here" if not self.ended else "the result is written"
        say(f"{self.name}: stopping after {after}")

    def leave(self) -> None:
        """After training, and whatever ended it: exit where a signal asked to, and let the next one do so at once."""
        if self.ended:
            return
        on_signals(end_at_once)
        if self.stopped_by:
            sys.exit(128 + self.stopped_by)

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Start the clocks where training starts, or go on where a killed stage's stood."""
        self.began = self.saved = self.stepped = time.monotonic()
        self.before = max((line.get("seconds", 0.0) for line in state.log_history), default=0.0)
        psutil.cpu_percent()  # the next call tells the use since this one

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Decide whether to save; never after the last step, which ends in the result itself.

        Up to here a signal ended the stage at once, as there was nothing to save.
        """
        if not self.listening:
            self.listening = True
            on_signals(self._stop)
        if state.global_step >= state.max_steps:
            self.ended = True
            return
        due = time.monotonic() - self.saved >= max(self.every, 20 * self.saving)
        if self.stopped_by or due:
            control.should_save = True
            self.save_began = time.monotonic()
        control.should_training_stop |= self.stopped_by is not None

    def end(self, control: Any) -> None:
        """Let this step be the last: it ends in the result itself, and so is not saved."""
        self.ended = True
        control.should_save, control.should_training_stop = False, True

    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """What measuring takes is no part of the next step's time."""
        self.stepped = time.monotonic()

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Make the checkpoint count, and remember how long that took, so that it stays below a twentieth of the time."""
        checkpoints.seal(self.folder / f"checkpoint-{state.global_step}")
        self.saved = time.monotonic()
        self.saving = self.saved - self.save_began
        control.should_training_stop |= self.stopped_by is not None  # a signal while it was written

    def _check(self, state: Any, logs: dict[str, float], model: Any, keeps: bool) -> None:
        """Stop before a number that is none can be saved.

        Raises:
            UserError: naming the step, its rows and the usual cures.
        """
        found = {"loss": logs["loss"], "gradient's norm": logs.get("grad_norm", 0.0)}
        wrong = [f"the {what} is {number}" for what, number in found.items() if not math.isfinite(number)]
        if not wrong and keeps and not is_finite(model):
            wrong = ["the weights are no longer finite"]
        if not wrong:
            return
        rows = self.rows_of(state.global_step)
        on = f" on the rows {', '.join(rows[:8])}" + (f" and {len(rows) - 8} more" if len(rows) > 8 else "")
        raise UserError(
            f"{self.name}: {' and '.join(wrong)} at step {state.global_step}{on if rows else ''}; "
            "write a lower learning_rate, a longer warmup or precision: fp32"
        )

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, model: Any = None, **_: Any
    ) -> None:
        """Keep one line a step in train.jsonl, and show where training is.

        Raises:
            UserError: the loss, the gradient or a weight that is about to be saved is not a number.
        """
        if not state.is_world_process_zero or "loss" not in logs:
            return
        self._check(state, logs, model, control.should_save or self.ended)
        now = time.monotonic()
        speed = None
        if "num_tokens" in logs:  # of several steps on the same answers, only the first has it
            speed = (logs["num_tokens"] - self.tokens) / (now - self.stepped) if self.tokens else None
            self.tokens, self.stepped = logs["num_tokens"], now
        state.log_history[-1] |= {
            "tokens_per_second": speed and round(speed, 1),
            "memory_gib": memory_gib(),
            "seconds": round(self.before + now - self.began, 4),
            "cpu_percent": psutil.cpu_percent(),
            "gpu_percent": gpu_percent(),
        }
        with (self.folder / "train.jsonl").open("w") as file:
            file.writelines(json.dumps(line) + "\n" for line in history(state.log_history))
        reward = f"  reward {logs['reward']:.3f}" if "reward" in logs else ""
        pace = f"  {speed:.0f} tokens/s" if speed else ""
        progress(
            f"{self.name}: step {state.global_step}/{state.max_steps}  loss {logs['loss']:.4f}{reward}{pace}",
            state.global_step,
            state.max_steps,
        )


def is_finite(model: Any) -> bool:
    """Whether every number that is trained is one."""
    return all(bool(parameter.isfinite().all()) for parameter in model.parameters() if parameter.requires_grad)


def rows_of_step(trainer: Any, dataset: str, step: int) -> list[str]:
    """Where the rows of an optimiser step come from, file and line; nothing where nobody knows."""
    rows, args = trainer.train_dataset, trainer.args
    if "id" not in rows.column_names:
        return []
    size = args.per_device_train_batch_size * args.gradient_accumulation_steps
    if hasattr(args, "steps_per_generation"):  # several steps may share a rollout, and several answers a prompt
        step = -(-step * args.gradient_accumulation_steps // args.steps_per_generation)
        size = args.generation_batch_size // args.num_generations
    ids = rows[(step - 1) * size : step * size]["id"]
    ids = [name for one in ids for name in ([one] if isinstance(one, str) else one)]  # several where they are packed
    file = Path(f"results/data/{dataset}/train.parquet")
    places = dict(zip(*read_columns(file, ("id", "place")), strict=True)) if file.exists() else {}
    return [places.get(name, name) for name in ids]


def gpu_percent() -> int | None:
    """How busy the GPU is; None without one, and where NVML does not tell: in a container, a slice of a GPU, without the right."""
    try:
        return torch.cuda.utilization() if torch.cuda.is_available() else None
    except Exception:  # NVML's own errors, whose module may be missing
        return None


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
    lines = []
    for line in log:
        held_out = [key for key in line if key.startswith(early_stopping.EVALUATED)]
        if "loss" in line or held_out:
            shown = [key for key in (*keep, *held_out) if line.get(key) is not None]
            lines.append({key: line[key] for key in shown if key != "entropy" or line[key]})
    return lines


# ---- the run itself


def fit(build: Callable[[dict], Any], options: Namespace, folder: Path, spec: dict) -> None:
    """Train from the last whole checkpoint to the end, and leave the result in `folder`/finished.

    Out of memory, it goes on with half the micro-batch and twice the accumulation.

    Args:
        build: makes TRL's trainer of a spec; of one with another `accumulation` where the first needs too much memory.

    Exits with 128 + the signal's number after a signal that asks to stop, with a checkpoint saved.

    Raises:
        UserError: the loss is not a number, or not even the smallest micro-batch fits.
    """
    name = options.spec.parent.name
    spec = _as_it_fits(name, folder, spec)
    with out_of_memory.at_work(folder):
        while why := _attempt(build, options, folder, spec):
            spec = _smaller(name, folder, spec, why)
            gc.collect()
            torch.cuda.empty_cache()
            if torch.cuda.is_available():
                torch.cuda.reset_peak_memory_stats()  # the peak that is told is that of the attempt which succeeds
    checkpoints.clear(folder)
    keeping.clear(folder)


def _as_it_fits(name: str, folder: Path, spec: dict) -> dict:
    """The spec with the accumulation that earlier attempts have left."""
    for attempt in out_of_memory.recorded(folder):
        tried = spec | {"accumulation": attempt["accumulation"]}
        spec = out_of_memory.smaller(tried) or tried
    if not out_of_memory.killed_for_memory(folder):
        return spec
    if torch.cuda.is_available():
        say(f"{name}: the kernel killed the last attempt, as the machine's own memory was full (not the GPU's)")
        return spec
    why = "killed by the kernel for want of memory"
    try:
        return _smaller(name, folder, spec, why)
    except UserError as error:  # other programs may have used the memory
        say(f"{error}; trying again")
        return spec


def _smaller(name: str, folder: Path, spec: dict, why: str) -> dict:
    """The spec for the next attempt, after one that ran out of memory.

    Raises:
        UserError: the micro-batch is the smallest already.
    """
    out_of_memory.record(folder, spec, why)
    rows, smaller = out_of_memory.micro_batch(spec), out_of_memory.smaller(spec)
    if smaller is None:
        raise UserError(
            f"{name}: out of memory with {rows} row{'s' * (rows > 1)} at once, the least there can be; "
            f"write {out_of_memory.remedies(spec)}"
        )
    left = out_of_memory.micro_batch(smaller)
    say(f"{name}: out of memory with {rows} rows at once; goes on with {left} at once, in batches as before")
    return smaller


def _attempt(build: Callable[[dict], Any], options: Namespace, folder: Path, spec: dict) -> str | None:
    """Train to the end; returns how memory ran out, where it did.

    The exception itself is not returned: it holds on to everything that took the memory.
    """
    try:
        _train(build, options, folder, spec)
    except Exception as error:
        if out_of_memory.is_out_of_memory(error):
            traceback.print_exc()
            return first_line(error)
        if storage_fault(error):
            with contextlib.suppress(OSError):
                checkpoints.remove_unfinished(folder)
            error.add_note(str(folder))
        raise
    return None


def _train(build: Callable[[dict], Any], options: Namespace, folder: Path, spec: dict) -> None:
    name = options.spec.parent.name
    with refusals(name):
        trainer = build(spec)
    model = trainer.model.policy if spec["objective"] == "ppo" else trainer.model  # what is saved
    with _named(name):
        initial_weights.put(trainer, options.parent, folder, spec)
    causal = model.get_base_model() if spec["method"] != "full" else model
    if can_be_compact(spec):
        add_compact_head(causal)
    if spec.get("neftune"):
        neftune.add(causal, spec["neftune"])
    for parameter in trainer.model.parameters():
        if parameter.requires_grad:  # TRL makes an adapter on 4 bits bf16, which a resumed training would not be
            parameter.data = parameter.data.float()
    if spec["method"] == "lora":
        multiplied_in = torch.bfloat16 if loading.precision(spec["precision"]) == "bf16" else None
        add_low_rank(model, multiplied_in if can_be_compact(spec) else None)
    with _named(name):
        parameter_patterns.control(trainer, spec)
    trained, total = trainable(model)
    say(
        f"{name}: {spec['objective']}, {spec['method']}: {trained:,} of {total:,} parameters are trained ({trained / total:.2%})",
        "detail",
    )
    checkpoint = keeping.last(folder, early_stopping.plan(spec))
    if spec["method"] in peft_methods.KEEPERS and spec["objective"] != "ppo":  # ppo saves everything that moves
        trainer.add_callback(peft_methods.KEEPERS[spec["method"]](model, checkpoint))
    if spec.get("lora_plus"):
        trainer.optimizer = lora_plus(trainer, spec["lora_plus"])
    trainer.add_callback(WarmUp())
    if not OBJECTIVES[spec["objective"]].on_policy:  # whose losses are means over answers that are not sorted by length
        rows = trainer.train_dataset
        amounts = rows["trained"][:] if "trained" in rows.column_names else [1] * len(rows)
        trainer.add_callback(EvenWeights(amounts, spec["batch_size"]))
    watch = Watch(name, folder, partial(rows_of_step, trainer, spec["data"]["name"]))
    trainer.add_callback(watch)
    measuring = held_out.begin(spec, options, trainer, folder, partial(save_trained, model, spec), watch.end)
    if checkpoint:
        say(f"{name}: goes on from {checkpoint.name}")
        _count_on(trainer, checkpoint)
    trackers.add(trainer, name, folder)
    start = time.monotonic()
    with _tracked(trainer, name, options, folder) as mlflow_run_id:
        try:
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        finally:
            watch.leave()
        outcome = {
            "trainable_parameters": trained,
            "parameters": total,
            "seconds": round(watch.before + time.monotonic() - start, 2),
            "micro_batch": out_of_memory.micro_batch(spec),
            "accumulation": spec["accumulation"],
            "attempts": out_of_memory.recorded(folder),
            "resumed_from": checkpoint.name if checkpoint else None,
            "mlflow_run_id": mlflow_run_id,
        }
        if measuring:
            outcome["held_out"] = measuring.summary()
        _keep(trainer, model, folder, spec, outcome, measuring.kept() if measuring else None)


@contextlib.contextmanager
def _named(name: str) -> Iterator[None]:
    """Put the run's name before what is refused within the block."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{name}: {error}") from None


def _count_on(trainer: Any, checkpoint: Path) -> None:
    """Let TRL count the tokens on from a checkpoint; it would count from 0 again."""
    counts = [
        line["num_tokens"]
        for line in read_json(checkpoint / "trainer_state.json")["log_history"]
        if "num_tokens" in line
    ]
    if counts:
        trainer._total_train_tokens = counts[-1]


@contextlib.contextmanager
def _tracked(trainer: Any, name: str, options: Namespace, folder: Path) -> Iterator[str | None]:
    """Log the block to MLflow where that is wanted; gives the MLflow run's id."""
    if not mlflow_tracking.settings()["mlflow"]:
        yield None
        return
    mlflow = mlflow_tracking.MLflowCallback(name, options.spec, folder)
    trainer.add_callback(mlflow)
    status = "KILLED"
    try:
        yield mlflow.run_id
        status = "FINISHED"
    except UserError:
        status = "FAILED"
        raise
    finally:
        mlflow.close(status)


def can_be_compact(spec: dict) -> bool:
    """Whether only the log-probabilities of trained positions are needed, and the model sees tokens."""
    weighted = spec.get("trainer_args", {}).get("use_weighting")  # WPO's weights need what only TRL's head computes
    return spec["objective"] in ("sft", "dpo", "kto") and not METHODS[spec["method"]].virtual_tokens and not weighted


def lora_plus(trainer: Any, ratio: float) -> torch.optim.Optimizer:
    """An optimiser that moves B faster than A (Hayou et al. 2024)."""
    from peft.optimizers import create_loraplus_optimizer

    kind, arguments = trainer.get_optimizer_cls_and_kwargs(trainer.args)
    arguments |= {"loraplus_lr_ratio": ratio, "loraplus_weight_decay": trainer.args.weight_decay}
    return create_loraplus_optimizer(model=trainer.model, optimizer_cls=kind, **arguments)


def _keep(
    trainer: Any, model: Any, folder: Path, spec: dict, outcome: dict[str, Any], best: Path | None = None
) -> None:
    """Write what training produced to `folder`/finished, whole or not at all; in float32, whatever the base's type.

    Args:
        best: the result of an earlier step, which is kept in place of the last one's.
    """
    lines = history(trainer.state.log_history)
    summary = {
        "steps": trainer.state.global_step,
        "loss": next(line["loss"] for line in reversed(lines) if "loss" in line),
        "precision": loading.precision(spec["precision"]),
        "attention": model.config._attn_implementation,
        **{name: getattr(trainer.args, name) for name in kernels(spec)},  # as `trainer_args` may have changed them
        "threads": torch.get_num_threads(),
        "memory_gib": memory_gib(),
        "memory_of": "gpu" if torch.cuda.is_available() else "process",
    }
    with whole_folder(folder / "finished") as finished:
        if best:
            for file in keeping.files(best):
                link(file, finished / "trained" / file.name)
        else:
            save_trained(model, spec, finished / "trained")
        (finished / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        write_json(finished / "train.json", summary | outcome)


def save_trained(model: Any, spec: dict, folder: Path) -> None:
    """Write what is trained of a model: the adapter as PEFT saves it, or all weights."""
    only = {} if spec["method"] == "full" else {"selected_adapters": ["default"]}
    for config in getattr(model, "peft_config", {}).values():
        put_in_order(config)
    model.save_pretrained(folder, **only)


def put_in_order(config: Any) -> None:
    """Make sorted lists of the sets in a PEFT configuration, which are saved in the order of this process's hashes."""
    for key, value in vars(config).items():
        if isinstance(value, set):
            setattr(config, key, sorted(value))


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
