"""Training, as every objective does it: build TRL's trainer, resume, train to the end, keep the result.

If a stage is killed, the same command resumes from its last whole checkpoint and ends with the same bits. Checkpoints are in
`results/{run}/checkpoints/{key}/`, outside every declared output, since Snakemake deletes those before a rerun. The key is the
hash of the spec and of every input, so a changed setting never resumes from an old checkpoint.
"""

import contextlib
import gc
import time
import traceback
from argparse import Namespace
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch

from posttrain.compat.trainer_internals import count_tokens_from, load_by_saved_names
from posttrain.data.row_order import EvenWeights
from posttrain.methods import METHODS
from posttrain.models import initial_weights, loading, out_of_memory, parameter_control, peft_methods
from posttrain.models.base_inspection import first_line
from posttrain.models.lm_head import add_compact_head
from posttrain.models.lora_linear import add_low_rank
from posttrain.objectives import OBJECTIVES
from posttrain.runtime import processes, team_cache
from posttrain.runtime.atomic import read_json
from posttrain.runtime.console import say
from posttrain.runtime.errors import UserError
from posttrain.runtime.storage_faults import storage_fault
from posttrain.training import (
    callbacks,
    checkpoints,
    early_stopping,
    held_out,
    inputs,
    keeping,
    mlflow_tracking,
    neftune,
    results,
    row_shares,
    strategies,
    trackers,
)
from posttrain.training.warm_up import WarmUp


def run(
    options: Namespace, files: Callable[[dict], list[Path]], prepare: Callable[[dict, Path], Callable[[dict], Any]]
) -> None:
    """Run a training stage; a result that is there already is only put in its place.

    Args:
        options: of the stage's command line.
        files: what the stage of a spec reads beside it, for the key of its checkpoints.
        prepare: reads the rows of a spec, given the stage's folder, and returns what builds TRL's trainer: see `fit`.
    """
    spec = read_json(options.spec)
    read = files(spec)
    folder = inputs.work_folder(options, read)
    name, key = options.spec.parent.name, inputs.team_key(options, read) if team_cache.is_used() else ""
    if not processes.by_main(lambda: results.is_there(name, key, folder)):
        fit(prepare(spec, folder), options, folder, spec)
    if processes.is_main():
        results.link_results(options, folder)
        team_cache.store(name, key, folder / "finished")


def fit(build: Callable[[dict], Any], options: Namespace, folder: Path, spec: dict) -> None:
    """Train from the last whole checkpoint to the end, and leave the result in `folder`/finished.

    Out of memory, training continues with half the micro-batch and twice the accumulation.

    Args:
        build: makes TRL's trainer of a spec, which has another `accumulation` where the first needs too much memory.

    Raises:
        UserError: a number is not finite, or not even the smallest micro-batch fits.
        SystemExit: with 128 + the signal's number after a signal that asks to stop, with a checkpoint saved.
    """
    name = options.spec.parent.name
    spec = processes.by_main(lambda: _fitting(name, folder, spec, processes.restarted_for()))
    with out_of_memory.at_work(folder) if processes.is_main() else contextlib.nullcontext():
        while reason := _attempt(build, options, folder, spec):
            spec = _smaller(name, folder, spec, reason)
            gc.collect()
            torch.cuda.empty_cache()
            if torch.cuda.is_available():
                torch.cuda.reset_peak_memory_stats()  # the peak that is reported is that of the attempt which succeeds
    if processes.is_main():
        checkpoints.clear(folder)
        keeping.clear(folder)


# ---- out of memory


def _fitting(name: str, folder: Path, spec: dict, reason: str | None) -> dict:
    """The spec of one process, with the accumulation that earlier attempts have left.

    Args:
        reason: how the attempt ran out of memory after which the launcher has started the processes again.
    """
    spec = out_of_memory.share(spec)
    for attempt in out_of_memory.recorded(folder):
        tried = out_of_memory.share(spec, attempt["micro_batch"])
        spec = out_of_memory.smaller(tried) or tried
    if reason:
        return _smaller(name, folder, spec, reason)
    if not out_of_memory.killed_for_memory(folder):
        return spec
    if torch.cuda.is_available():
        say(f"{name}: the kernel killed the last attempt, as the machine's own memory was full (not the GPU's)")
        return spec
    try:
        return _smaller(name, folder, spec, "killed by the kernel's out-of-memory killer")
    except UserError as error:  # other programs may have used the memory
        say(f"{error}; trying again")
        return spec


def _smaller(name: str, folder: Path, spec: dict, reason: str) -> dict:
    """The spec for the next attempt, after one that ran out of memory.

    Raises:
        UserError: the micro-batch is the smallest already.
    """
    out_of_memory.record(folder, spec, reason)
    rows, smaller = out_of_memory.micro_batch(spec), out_of_memory.smaller(spec)
    if smaller is None:
        raise UserError(
            "out-of-memory",
            name,
            f"out of memory with {rows} row{'s' * (rows > 1)} at once, the fewest possible",
            f"write {out_of_memory.remedies(spec)}",
        )
    left = out_of_memory.micro_batch(smaller)
    say(f"{name}: out of memory with {rows} rows at once; continuing with {left} at once, in batches as before")
    return smaller


def _attempt(build: Callable[[dict], Any], options: Namespace, folder: Path, spec: dict) -> str | None:
    """Train to the end; returns how memory ran out, where it did.

    The exception itself is not returned: it refers to everything that took the memory.
    """
    try:
        _train(build, options, folder, spec)
    except Exception as error:
        if out_of_memory.is_out_of_memory(error):
            traceback.print_exc()
            if processes.has_launcher():
                processes.start_again(first_line(error))
            return first_line(error)
        if storage_fault(error):
            with contextlib.suppress(OSError):
                checkpoints.remove_unfinished(folder)
            error.add_note(str(folder))
        raise
    return None


# ---- one attempt


def _train(build: Callable[[dict], Any], options: Namespace, folder: Path, spec: dict) -> None:
    """Build the trainer, resume it, train, and write the result."""
    name, objective = options.spec.parent.name, OBJECTIVES[spec["objective"]]
    with library_refusals(name):
        trainer = build(spec)
    model = trainer.model.policy if objective.value_model else trainer.model  # what is saved
    _adapt(trainer, model, options, folder, spec)
    trained, total = results.trainable(model)
    say(
        f"{name}: {spec['objective']}, {spec['method']}: {trained:,} of {total:,} parameters are trained ({trained / total:.2%})",
        "detail",
    )
    checkpoint = processes.by_main(lambda: keeping.last(folder, early_stopping.plan(spec)))
    keeper = peft_methods.KEEPERS.get(spec["method"])
    if keeper and not objective.value_model:  # whose trainer saves all that is trainable itself
        trainer.add_callback(keeper(model, checkpoint))
    if spec.get("lora_plus"):
        trainer.optimizer = lora_plus(trainer, spec["lora_plus"])
    stop, log = _add_callbacks(trainer, name, folder, spec)
    write = partial(results.save_trained, model, spec)
    measuring = held_out.begin(spec, options, trainer, folder, write, stop.end_training)
    if checkpoint:
        say(f"{name}: resumes from {checkpoint.name}")
        count_tokens_from(trainer, checkpoint)
        load_by_saved_names(trainer, checkpoint)
    trackers.add(trainer, name, folder)
    with _named(name):
        strategies.begin(trainer, trainer.write_weights if objective.value_model else write, checkpoint)
    start = time.monotonic()
    with _tracked(trainer, name, options, folder) as mlflow_run_id:
        try:
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        finally:
            stop.leave()
        outcome = {
            "trainable_parameters": trained,
            "parameters": total,
            "seconds": round(log.seconds_before + time.monotonic() - start, 2),
            "micro_batch": out_of_memory.micro_batch(spec),
            "accumulation": spec["accumulation"],
            "attempts": out_of_memory.recorded(folder),
            "resumed_from": checkpoint.name if checkpoint else None,
            "mlflow_run_id": mlflow_run_id,
        }
        if measuring:
            outcome["held_out"] = measuring.summary()
        results.write(trainer, model, folder, spec, outcome, measuring.kept() if measuring else None)


def _adapt(trainer: Any, model: Any, options: Namespace, folder: Path, spec: dict) -> None:
    """Give a trainer's model what its spec asks for beside TRL's and PEFT's own: first weights, kernels, noise, frozen weights."""
    name, method = options.spec.parent.name, METHODS[spec["method"]]
    with _named(name):
        initial_weights.put(trainer, options.parent, folder, spec)
    causal = model if method.full else model.get_base_model()
    on_cpu = not torch.cuda.is_available()  # a model that FSDP will move to the GPUs is not there yet
    if on_cpu and can_be_compact(spec):
        add_compact_head(causal)
    if spec.get("neftune"):
        neftune.add(causal, spec["neftune"])
    for parameter in trainer.model.parameters():
        if parameter.requires_grad:  # TRL makes an adapter on 4 bits bf16, which a resumed training would not be
            parameter.data = parameter.data.float()
    if on_cpu and method.low_rank and not method.four_bit:
        multiplied_in = torch.bfloat16 if loading.precision(spec["precision"]) == "bf16" else None
        add_low_rank(model, multiplied_in if can_be_compact(spec) else None)
    with _named(name):
        parameter_control.control(trainer, spec)


def _add_callbacks(
    trainer: Any, name: str, folder: Path, spec: dict
) -> tuple[callbacks.StopOnSignal, callbacks.LogSteps]:
    """Add the callbacks of every training; returns those that are asked afterwards."""
    trainer.add_callback(callbacks.CheckStart(name, trainer))
    trainer.add_callback(WarmUp())
    if not OBJECTIVES[spec["objective"]].on_policy:  # whose losses are means over rows that are not sorted by length
        rows = trainer.train_dataset
        amounts = rows["trained"][:] if "trained" in rows.column_names else [1] * len(rows)
        trainer.add_callback(EvenWeights(amounts, spec["batch_size"]))
        if processes.count() > 1:
            row_shares.take(trainer, spec["batch_size"])
    stop, log = callbacks.StopOnSignal(name), callbacks.LogSteps(name, folder)
    rows_of = partial(rows_of_step, trainer, spec["data"]["name"])
    for callback in (stop, callbacks.SaveCheckpoints(folder), callbacks.RefuseNonFinite(name, rows_of), log):
        trainer.add_callback(callback)
    return stop, log


def rows_of_step(trainer: Any, dataset: str, step: int) -> list[str]:
    """Where the rows of an optimiser step come from, file and line; nothing where that is not known."""
    rows, args = trainer.train_dataset, trainer.args
    if "id" not in rows.column_names:
        return []
    size = args.per_device_train_batch_size * args.gradient_accumulation_steps * processes.count()
    if hasattr(args, "steps_per_generation"):  # several steps may share a rollout, and several completions a prompt
        step = -(-step * args.gradient_accumulation_steps // args.steps_per_generation)
        size = args.generation_batch_size // args.num_generations
    ids = rows[(step - 1) * size : step * size]["id"]
    ids = [one for one in ids if one]  # not that of a row without a weight, see row_shares.py
    ids = [name for one in ids for name in ([one] if isinstance(one, str) else one)]  # several where they are packed
    file = Path(f"results/data/{dataset}/train.parquet")
    places = dict(zip(*inputs.read_columns(file, ("id", "place")), strict=True)) if file.exists() else {}
    return [places.get(name, name) for name in ids]


def can_be_compact(spec: dict) -> bool:
    """Whether only the log-probabilities of trained positions are needed, and the model sees tokens."""
    weighted = spec.get("trainer_args", {}).get("use_weighting")  # WPO's weights need what only TRL's head computes
    is_patched = OBJECTIVES[spec["objective"]].compact_head == "patched"
    return is_patched and not METHODS[spec["method"]].virtual_tokens and not weighted


def lora_plus(trainer: Any, ratio: float) -> torch.optim.Optimizer:
    """An optimiser with a higher learning rate for B than for A (Hayou et al. 2024)."""
    from peft.optimizers import create_loraplus_optimizer

    kind, arguments = trainer.get_optimizer_cls_and_kwargs(trainer.args)
    arguments |= {"loraplus_lr_ratio": ratio, "loraplus_weight_decay": trainer.args.weight_decay}
    optimizer = create_loraplus_optimizer(model=trainer.model, optimizer_cls=kind, **arguments)
    optimizer.param_groups[:] = [
        group for group in optimizer.param_groups if group["params"]
    ]  # ZeRO takes no empty group
    return optimizer


# ---- around it


@contextlib.contextmanager
def library_refusals(name: str) -> Iterator[None]:
    """Tell in one sentence what PEFT or TRL refuse of `method`, `peft_args` or `trainer_args`.

    Raises:
        UserError: instead of the library's own error, whose traceback goes to the log.
    """
    try:
        yield
    except (TypeError, ValueError, NotImplementedError, ImportError) as error:
        traceback.print_exc()
        raise UserError("refused-argument", name, f"method, peft_args or trainer_args: {first_line(error)}") from None


@contextlib.contextmanager
def _named(name: str) -> Iterator[None]:
    """Put the run's name before the place of what is refused within the block."""
    try:
        yield
    except UserError as error:
        place = f"{name}: {error.place}" if error.place else name
        raise UserError(error.code, place, error.problem, error.hint) from None


@contextlib.contextmanager
def _tracked(trainer: Any, name: str, options: Namespace, folder: Path) -> Iterator[str | None]:
    """Log the block to MLflow where the configuration says so; gives the MLflow run's id."""
    if not mlflow_tracking.settings()["mlflow"] or not processes.is_main():
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
