"""Keys of transformers' TrainingArguments and of PEFT, which all three tools have: what becomes of them."""

import re
from typing import Any

from posttrain.config import library_fields, library_refusals
from posttrain.importing.carried import Job, Row, carried, differs, listed, not_carried, same
from posttrain.methods import METHODS

PLAIN_ADAMW = ("adamw_torch", "adamw_torch_fused", "adamw_hf", "adamw_apex_fused")
SCHEDULES = ("cosine", "linear", "constant")
BATCH = "examples per optimiser step: per device x accumulated x devices"
SHORT_WARMUP = (
    "a number of steps is carried where max_steps is set; else write warmup_ratio, a share of the steps (0.1 applies)"
)
FIRST_STEP = "the rate of the first of n warm-up steps is 1 / (n + 1) of the peak here, and 0 there"
EVALUATED = "held-out rows are measured after training; write measure_every: STEPS to measure them in between"
CHECKPOINTS = "checkpoints are made by time, and only for resuming; see tracking: {checkpoint_seconds}"
RESULTS = "results are under results/RUN"
DECIDED = "one process reads and orders the rows, and the table hardware decides about several"
ON_HUB = "training runs without the hub; posttrain publish uploads a run"


def batch(value: Any, job: Job) -> Row:
    """The size of a batch, which is per device and per forward pass elsewhere, and per optimiser step here."""
    accumulated = int(job.value("gradient_accumulation_steps") or 1)
    if int(value) < 1:
        raise ValueError
    total = int(value) * accumulated * job.devices
    job.set("batch_size", total)
    counted = (
        f"{value} per device x {accumulated} accumulated x {job.devices} {'device' if job.devices == 1 else 'devices'}"
    )
    return differs("batch_size", f"examples per optimiser step: {counted} = {total}")


def length(value: Any, job: Job) -> None:
    """The most tokens of a row."""
    job.set("max_length", int(value))


def packed(value: Any, job: Job) -> Row | None:
    """Whether several rows are one."""
    if not value:
        return same("it is off, as here")
    job.set("packing", True)
    return None


def four_bits(value: Any, job: Job) -> Row:
    """Weights in 4 bits, which make a method of adapters another method."""
    if not value:
        return same("it is off, as here")
    return (
        carried("method", "qlora")
        if METHODS[job.method].four_bit
        else not_carried("it has no effect without an adapter")
    )


def accumulation(value: Any, job: Job) -> None:
    """Forward passes of a batch."""
    if int(value) < 1:
        raise ValueError
    job.set("gradient_accumulation_steps", int(value))


def warmup_steps(value: Any, job: Job) -> Row | None:
    """A number of warm-up steps, or a share where it is below 1."""
    steps, value = job.value("max_steps"), float(value)
    if value >= 1 and not (isinstance(steps, int) and steps > 0):
        return not_carried(SHORT_WARMUP)
    return _warmup(value if value < 1 else min(1.0, value / steps), job)


def warmup_ratio(value: Any, job: Job) -> Row | None:
    """A share of the steps."""
    return same("warmup_steps decides") if job.source.get("warmup_steps") else _warmup(float(value), job)


def _warmup(share: float, job: Job) -> Row | None:
    """Transformers' schedule `constant` has no warm-up, and ours has."""
    constant = "constant" in (job.value("lr_scheduler_type"), job.value("lr_scheduler"))
    job.set("warmup_ratio", 0.0 if constant else share)
    if share and not constant:
        return differs("warmup_ratio", FIRST_STEP)
    return same("the schedule constant has no warm-up there") if constant and share else carried("warmup_ratio")


def schedule(value: Any, job: Job) -> Row | None:
    """The learning rate schedule."""
    name = "constant" if value == "constant_with_warmup" else value
    job.set("lr_scheduler_type", name if name in SCHEDULES else "cosine")
    if name not in SCHEDULES:
        return differs("lr_scheduler_type", f"there is no schedule {name} here; cosine takes its place")
    return None


def clipping(value: Any, job: Job) -> Row | None:
    """The largest norm of the gradient; 0 turns clipping off."""
    job.set("max_grad_norm", float(value) or 1e9)
    return None if value else differs("max_grad_norm", "0 turns clipping off; here a very large norm does")


def bf16(value: Any, job: Job) -> Row:
    """bf16 in matrix products."""
    if str(value).lower() in ("auto", "full"):
        return same("precision: auto is bf16 where the hardware has it")
    if not value and job.value("fp16"):
        return same("fp16 decides")
    job.set("precision", "bf16" if value else "fp32")
    return carried("precision")


def fp16(value: Any, job: Job) -> Row:
    """fp16 in matrix products, which is not offered."""
    if str(value).lower() in ("false", "no", "auto"):
        return same("it is off, as here")
    job.set("precision", "bf16")
    return differs("precision", "fp16 is not offered; bf16 takes its place, without loss scaling")


def optimiser(value: Any, job: Job) -> Row:
    """The optimiser, by the name that transformers has for it."""
    own = "paged_adamw_8bit" if METHODS[job.method].four_bit else "adamw_torch_fused"
    if value == own or (value in PLAIN_ADAMW and own in PLAIN_ADAMW):
        return same("it is the default")
    name = "adamw_torch_fused" if value in PLAIN_ADAMW else value
    if name not in library_refusals.optimisers(library_fields.trainer_files("sft")[-1]):
        return not_carried(f"transformers has no optimiser of that name; {own} is used")
    job.set("trainer_args.optim", name)
    package = next((pip for part, (_, pip) in library_refusals.OPTIMISERS.items() if part in name), None)
    return carried("trainer_args.optim", f"it needs pip install {package}" if package else "")


def deepspeed(value: Any, job: Job) -> Row:
    """A DeepSpeed configuration, of which the stage is carried."""
    text = str(value)
    stage = re.search(r"(?:zero[_-]?|z|'stage': ?)([0-3])", text)
    return _shared(f"zero{stage[1]}" if stage and stage[1] != "0" else "ddp", "offload" in text, job)


def fsdp(value: Any, job: Job) -> Row:
    """FSDP's options, of which sharding and offloading are carried."""
    return same("it is off, as here") if not value else _shared("fsdp", "offload" in str(value), job)


def _shared(strategy: str, offload: bool, job: Job) -> Row:
    if job.devices == 1:
        return not_carried(
            f"it shares a model out over several devices; --devices N writes hardware: {{strategy: {strategy}}}"
        )
    job.hardware |= {"strategy": strategy} | ({"offload": True} if offload else {})
    return differs("hardware.strategy", f"{strategy}; other options of the file are not carried")


def trackers(value: Any, job: Job) -> Row:
    """Where training is logged besides MLflow."""
    wanted = [name for name in listed(value) if name in library_refusals.TRACKERS]
    if not wanted:
        return same("MLflow is the default; others are under tracking: {also: [...]}")
    if library_refusals.missing_tracker(wanted):
        return not_carried(f"install it, and write tracking: {{also: [{', '.join(wanted)}]}}")
    job.set("tracking.also", wanted)
    return carried("tracking.also")


def keep_best(value: Any, job: Job) -> Row:
    """Whether the best checkpoint is kept."""
    if not value:
        return same("it is off, as here")
    job.set("keep", "best")
    return carried("keep", "best by the objective's first measure on held-out rows; measure_every says how often")


def patience(value: Any, job: Job) -> Row:
    """Measurements without an improvement after which training stops."""
    job.set("early_stopping", {"patience": int(value)})
    return carried("early_stopping", "by the objective's first measure on held-out rows")


def recomputing(value: Any, job: Job) -> Row | None:
    """Gradient checkpointing, to the device or to the machine's memory."""
    job.set("gradient_checkpointing", bool(value))
    if isinstance(value, str) and value not in ("true", "false"):
        return differs("gradient_checkpointing", f"{value}: activations are recomputed on the device")
    return None


def steps(value: Any, job: Job) -> Row | None:
    """The number of steps, where it is set."""
    if int(value) <= 0:
        return same("it is off, as here")
    job.set("max_steps", int(value))
    return None


def modules(value: Any, job: Job) -> Row | None:
    """The layers that get an adapter."""
    names = listed(value)
    if names in (["all"], ["all-linear"]):
        return same("all-linear is the default")
    pattern = isinstance(value, str) and bool(re.search(r"[\\^$*|(\[]", value))
    job.set("target_modules", value if pattern else names)
    return None


def saved_modules(value: Any, job: Job) -> None:
    """Modules that are trained in full beside an adapter."""
    job.set("peft_args.modules_to_save", listed(value))


TRAINING: dict[str, Row] = {
    "learning_rate": carried("learning_rate", read=lambda value, job: job.set("learning_rate", float(value))),
    "num_train_epochs": carried("epochs"),
    "max_steps": carried("max_steps", read=steps),
    "per_device_train_batch_size": differs("batch_size", BATCH, batch),
    "gradient_accumulation_steps": carried("gradient_accumulation_steps", read=accumulation),
    "warmup_ratio": differs("warmup_ratio", FIRST_STEP, warmup_ratio),
    "warmup_steps": differs("warmup_ratio", SHORT_WARMUP, warmup_steps),
    "lr_scheduler_type": carried("lr_scheduler_type", "cosine, linear or constant; cosine takes the place of others", schedule),
    "weight_decay": carried("weight_decay"),
    "max_grad_norm": carried("max_grad_norm", read=clipping),
    "bf16": carried("precision", "true is bf16, false is fp32", bf16),
    "fp16": differs("precision", "fp16 is not offered; bf16 takes its place, without loss scaling", fp16),
    "seed": carried("seed", "the same seed, but other random numbers: rows are in another order"),
    "optim": carried("trainer_args.optim", "AdamW is the default, for qlora in 8 bits and paged", optimiser),
    "gradient_checkpointing": carried("gradient_checkpointing", read=recomputing),
    "gradient_checkpointing_kwargs": same("checkpointing is not reentrant, and no result depends on it"),
    "neftune_noise_alpha": carried("neftune_noise_alpha"),
    "report_to": carried("tracking.also", "tensorboard, wandb and trackio; MLflow is the default", trackers),
    "load_best_model_at_end": carried("keep", "best", keep_best),
    "deepspeed": differs("hardware.strategy", "its stage is carried, with --devices", deepspeed),
    "fsdp": differs("hardware.strategy", "fsdp, with --devices", fsdp),
    "fsdp_config": not_carried("the table hardware has strategy and offload; layers are wrapped automatically"),
    "output_dir": same(RESULTS),
    **dict.fromkeys(("overwrite_output_dir", "logging_dir"), same(RESULTS)),
    **dict.fromkeys(
        ("save_steps", "save_strategy", "save_total_limit", "save_only_model", "save_safetensors"), same(CHECKPOINTS)
    ),
    **dict.fromkeys(("resume_from_checkpoint", "ignore_data_skip"), same("the same command resumes an interrupted run")),
    **dict.fromkeys(
        ("eval_strategy", "evaluation_strategy", "eval_steps", "do_eval", "eval_on_start", "eval_delay"), not_carried(EVALUATED)
    ),
    **dict.fromkeys(
        ("per_device_eval_batch_size", "eval_accumulation_steps", "auto_find_batch_size"),
        same("batches are split to fit into memory; evaluation: {batch_tokens} limits those of evaluation"),
    ),
    **dict.fromkeys(("logging_steps", "logging_strategy", "logging_first_step"), same("every step is logged")),
    **dict.fromkeys(("metric_for_best_model", "greater_is_better"), not_carried("write early_stopping: {metric: NAME}")),
    **dict.fromkeys(("do_train", "do_predict"), same("a run is trained, and its eval.json has what it was measured on")),
    **dict.fromkeys(
        (
            "ddp_timeout", "ddp_find_unused_parameters", "ddp_bucket_cap_mb", "ddp_broadcast_buffers", "ddp_backend", "local_rank",
            "use_cpu", "no_cuda", "dataloader_num_workers", "dataloader_pin_memory", "dataloader_prefetch_factor", "accelerator_config",
        ),
        same(DECIDED),
    ),
    **dict.fromkeys(("remove_unused_columns", "data_seed", "group_by_length"), same("rows are read and ordered before training, by seed")),
    **dict.fromkeys(("push_to_hub", "hub_model_id", "hub_strategy", "hub_token", "hub_private_repo"), not_carried(ON_HUB)),
    **dict.fromkeys(("run_name", "project"), not_carried("runs are logged under their own name; write tracking: {experiment: NAME}")),
    "trust_remote_code": same("code that comes with a model is never executed, so a model that needs it is refused"),
    "tf32": not_carried("products in float32 are exact; on a GPU that has it, write trainer_args: {tf32: true}"),
}  # fmt: skip

# The defaults of transformers' TrainingArguments where ours differ.
DEFAULTS: dict[str, Any] = {
    "learning_rate": 5e-5,
    "num_train_epochs": 3,
    "per_device_train_batch_size": 8,
    "lr_scheduler_type": "linear",
    "warmup_ratio": 0.0,
    "optim": "adamw_torch",
}

KERNELS = same("attention and kernels are chosen from what is installed")
