"""The command `trl` of TRL, as a YAML for --config or as command lines: what becomes of its keys. Checked with TRL 1.16."""

import re
import shlex
from pathlib import Path
from typing import Any

import yaml

from posttrain import objectives
from posttrain.importing.axolotl_datasets import rows_of_split
from posttrain.importing.carried import Job, Row, carried, differs, elsewhere, name_of, not_carried, read, same, tables
from posttrain.importing.hugging_face import (
    DEFAULTS,
    KERNELS,
    TRAINING,
    deepspeed,
    four_bits,
    fsdp,
    length,
    modules,
    saved_modules,
)
from posttrain.importing.llama_factory import LATER
from posttrain.runtime.errors import UserError

NAME = "TRL"
OBJECTIVES = ("sft", "dpo", "kto", "reward", "orpo", "cpo")
SAMPLING = ("grpo", "rloo")
COMMAND = re.compile(r"\btrl (\w+)(?=\s)|\bscripts/(?:\w+/)?(\w+)\.py\b|(?<=python )(\w+)\.py\b")
# The learning rates of TRL's configurations.
LEARNING_RATES = {"sft": 2e-5, "dpo": 1e-6, "kto": 1e-6, "reward": 1e-4, "orpo": 1e-6, "cpo": 1e-6}


def is_one(values: dict[str, Any]) -> bool:
    """Whether a file is a configuration for `trl`."""
    return "model_name_or_path" in values


def job(file: Path, values: dict[str, Any], devices: int) -> Job:
    """Read a YAML whose name says what it trains.

    Raises:
        UserError: one that cannot be carried over.
    """
    said = [name for name in (*OBJECTIVES, *SAMPLING) if re.search(rf"(?<![a-z]){name}(?![a-z])", file.stem)]
    if len(said) != 1:
        hint = f"import a file with the command line: trl sft --config {file.name}, or name the file for it, such as sft.yaml"
        raise UserError("cannot-import", str(file), "a configuration for trl does not say what it trains", hint)
    return _job(file, said[0], values, devices)


def commands(file: Path, devices: int) -> list[Job]:
    """Read the command lines of a shell script: `trl sft ...`, or a script of TRL's.

    Raises:
        UserError: it has none, or one that cannot be carried over.
    """
    try:
        text = file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError("unreadable-file", str(file), f"it cannot be read ({str(error).splitlines()[0]})") from None
    lines = [line for line in re.sub(r"\\\n", " ", text).splitlines() if not line.lstrip().startswith("#")]
    found = [(line, match) for line in lines if (match := COMMAND.search(line))]
    if not found:
        hint = "import a .yaml, or a file with lines such as: trl sft --model_name_or_path NAME"
        raise UserError("cannot-import", str(file), "it has no command of trl", hint)
    jobs = []
    for line, match in found:
        values = _flags(line[: match.start()], file) | _flags(line[match.end() :], file)
        if config := values.pop("config", None):
            beside = Path(config) if Path(config).exists() else file.parent / config
            values = _yaml(beside) | values
        jobs.append(_job(file, next(filter(None, match.groups())), values, devices))
    return jobs


def _yaml(file: Path) -> dict[str, Any]:
    try:
        return yaml.safe_load(file.read_text()) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError("unreadable-file", str(file), f"it cannot be read ({str(error).splitlines()[0]})") from None


def _flags(text: str, file: Path) -> dict[str, Any]:
    """The options of a command line; one without a value is true.

    >>> _flags("--packing --lora_target_modules q_proj v_proj --beta=0.2", Path())
    {'packing': True, 'lora_target_modules': ['q_proj', 'v_proj'], 'beta': 0.2}
    """
    try:
        words = shlex.split(text, comments=True)
    except ValueError as error:
        raise UserError("cannot-import", str(file), f"a command line cannot be read ({error})") from None
    found: dict[str, list[Any]] = {}
    key = ""
    for word in words:
        if word in ("&&", ";", "|", "&"):
            break
        if word.startswith("--"):
            key, _, value = word[2:].replace("-", "_").partition("=") if "=" not in word else word[2:].partition("=")
            found[key] = [value] if value else []
        elif key:
            found[key].append(word)
    values = {key: [yaml.safe_load(word) for word in given] for key, given in found.items()}
    flat = {key: True if not given else given[0] if len(given) == 1 else given for key, given in values.items()}
    return {
        key.removeprefix("no_"): False if key.startswith("no_") and value is True else value
        for key, value in flat.items()
    }


def _job(file: Path, objective: str, values: dict[str, Any], devices: int) -> Job:
    if objective in SAMPLING:
        hint = f"write objective: {objective}, with reward: {{from: RUN}} or {{function: FILE.py:NAME}}"
        raise UserError(
            "cannot-import", str(file), f"trl {objective} names functions of rewards with TRL's arguments", hint
        )
    if re.search("vlm|_video|_audio", objective):
        raise UserError("cannot-import", str(file), LATER)
    if objective not in OBJECTIVES:
        raise UserError(
            "cannot-import", str(file), f"trl {objective} is not read", f"valid are {', '.join(OBJECTIVES)}"
        )
    if "model_name_or_path" not in values:
        raise UserError("cannot-import", str(file), "it names no model", "write model_name_or_path")
    if re.search(r"-(VL|Omni)\b|llava", str(values["model_name_or_path"]), re.I):
        raise UserError("cannot-import", str(file), LATER)
    devices = int(values.get("num_processes") or devices)
    peft = bool(values.get("use_peft"))
    method = "qlora" if peft and values.get("load_in_4bit") else "lora" if peft else "full"
    defaults = DEFAULTS | OWN_DEFAULTS | {"learning_rate": LEARNING_RATES[objective]}
    found = Job(
        str(file), NAME, values, defaults, devices, objective, method, str(values["model_name_or_path"]),
        outputs=[str(values.get("output_dir") or "trainer_output")],
    )  # fmt: skip
    read(found, KEYS)
    if values.get("lora_target_modules") is None and peft:
        found.set("target_modules", ["q_proj", "v_proj"])
        note = "PEFT's own choice for Llama, Qwen, Mistral and Gemma; GPT-2 and Phi have other names"
        found.tell(Row("differs", "target_modules", note)._replace(kind="defaults"), "lora_target_modules", None)
    _datasets(found, file)
    return found


def _datasets(job: Job, file: Path) -> None:
    """The dataset of the command line, or those of a mixture; the format is recognised by the columns, as in TRL."""
    if name := job.source.get("dataset_name") if not job.source.get("datasets") else None:
        table = {"subset": str(config)} if (config := job.source.get("dataset_config")) else {}
        split = job.source.get("dataset_train_split")
        job.datasets[name_of(str(name))] = _source(str(name), None, file) | table | ({"split": split} if split else {})
        return
    for number, entry in enumerate(
        tables(job, "datasets", job.source["datasets"]) if job.source.get("datasets") else []
    ):
        table: dict[str, Any] = {}
        for key, value in entry.items():
            row = (
                same("it is empty, so the tool's default applies")
                if value is None
                else DATASET.get(key) or not_carried("there is no counterpart")
            )
            if key == "split":
                row = rows_of_split(str(value), table)
            elif key == "name" and value:
                table["subset"] = str(value)
            elif key == "fraction" and value:
                job.weights.append(float(value))
            job.tell(row, f"datasets.{number}.{key}", value)
        source = _source(str(entry["path"]), entry.get("data_files"), file)
        job.datasets[name_of(source.get("path") or source["hub"])] = source | table
    if not job.datasets:
        raise UserError("cannot-import", str(file), "it names no dataset", "write dataset_name")


def _source(path: str, files: Any, file: Path) -> dict[str, Any]:
    given = files if isinstance(files, str) else path
    beside = file.parent / given
    if not Path(given).exists() and beside.exists():
        return {"path": str(beside)}
    return (
        {"path": given}
        if Path(given).exists() or isinstance(files, str) or given.startswith(("/", ".", "~"))
        else {"hub": given}
    )


# ---- values


def _completions(value: Any, job: Job) -> Row:
    if value is False:
        return not_carried("only completions are trained; rows of format text are trained whole")
    return same("only completions are trained")


def _assistant(value: Any, job: Job) -> Row:
    if value or "text" not in objectives.OBJECTIVES[job.objective].data:
        return same("only the assistant's turns are trained")
    return differs("assistant_turns", "every token of a conversation is trained there, and the assistant's turns here")


def _accelerate(value: Any, job: Job) -> Row:
    if "fsdp" in str(value):
        return fsdp(str(value), job)
    return deepspeed(value, job) if "zero" in str(value) else same("the table hardware has processes and strategy")


def _held_out(value: Any, job: Job) -> Row:
    job.set("datasets.validation", float(value))
    return differs("datasets.validation", "the same share, but other rows: they are chosen by a hash of their content")


def _revision(value: Any, job: Job) -> None:
    job.set("bases.revision", str(value), "model_revision")


KEYS: dict[str, Row] = TRAINING | {
    "model_name_or_path": carried("from", "a base, or an earlier command's run", elsewhere),
    "model_revision": carried("bases.revision", read=_revision),
    "dataset_name": carried("data", "a dataset; its format is recognised by the columns, as in TRL", elsewhere),
    "dataset_config": carried("datasets.subset", read=elsewhere),
    "dataset_train_split": carried("datasets.split", read=elsewhere),
    "dataset_test_split": not_carried("write validation, a share or a file, at the dataset"),
    "datasets": carried("data", "each becomes a dataset, several a mix", elsewhere),
    "test_split_size": differs("datasets.validation", "other rows are held out", _held_out),
    **dict.fromkeys(("dataset_streaming", "streaming"), not_carried("rows are read whole, into files")),
    "use_peft": carried("method", "lora; full where it is not set", elsewhere),
    "lora_r": carried("rank"),
    "lora_alpha": carried("alpha"),
    "lora_dropout": carried("dropout"),
    "lora_target_modules": carried("target_modules", "all-linear is the default here, q_proj and v_proj there", modules),
    "lora_target_parameters": carried("peft_args.target_parameters"),
    "lora_modules_to_save": carried("peft_args.modules_to_save", read=saved_modules),
    "lora_task_type": same("it follows from the objective"),
    "use_rslora": carried("peft_args.use_rslora"),
    "use_dora": carried("peft_args.use_dora"),
    "load_in_4bit": carried("method", "qlora, with use_peft", four_bits),
    "load_in_8bit": not_carried("the base is held in its own type, or in 4 bits with method: qlora"),
    **dict.fromkeys(
        ("bnb_4bit_quant_type", "use_bnb_nested_quant", "bnb_4bit_quant_storage"),
        same("nf4 with double quantisation is the only kind"),
    ),
    **dict.fromkeys(("dtype", "torch_dtype"), same("trained weights are in float32, a frozen base in its own type")),
    **dict.fromkeys(("attn_implementation", "use_liger_kernel", "padding_free", "use_kernels"), KERNELS),
    "max_length": carried("max_length", read=length),
    "truncation_mode": same("longer rows lose their end"),
    "packing": carried("packing", "packed rows do not attend to each other"),
    "packing_strategy": same("rows are packed by best fit"),
    "eval_packing": same("held-out rows are measured one by one"),
    "completion_only_loss": same("only completions are trained", _completions),
    "assistant_only_loss": differs(
        "assistant_turns", "only the assistant's turns are trained; without it TRL trains every token of a conversation", _assistant
    ),
    "chat_template_path": carried("bases.chat_template"),
    "eos_token": carried("bases.eos_token"),
    "pad_token": carried("bases.pad_token"),
    "dataset_text_field": carried("datasets.columns", "{text: NAME}", lambda value, job: job.set("datasets.columns", {"text": value})),
    **dict.fromkeys(
        ("dataset_num_proc", "dataset_kwargs", "pad_to_multiple_of", "shuffle_dataset"),
        same("rows are tokenised before training, on all cores"),
    ),
    "activation_offloading": not_carried("what does not fit is named before training; see hardware: {offload}"),
    "loss_type": carried("loss_type"),
    "loss_weights": carried("loss_weights"),
    "beta": carried("beta"),
    "precompute_ref_log_probs": same("the reference's log-probabilities are computed once, before training"),
    "precompute_ref_batch_size": same("batches are split to fit into memory"),
    "disable_dropout": same("dropout: 0 is the default of every objective but sft"),
    "gradient_checkpointing_use_reentrant": same("no result depends on it"),
    "ignore_bias_buffers": same("no result depends on it"),
    "num_processes": carried("hardware.processes", read=elsewhere),
    **dict.fromkeys(
        ("config_file", "accelerate_config"),
        differs("hardware.strategy", "fsdp or the stage of ZeRO, with --devices", _accelerate),
    ),
    "env": not_carried("set it where the command is run"),
}  # fmt: skip

DATASET: dict[str, Row] = {
    "path": carried("datasets.hub", "or datasets.path"),
    "data_files": carried("datasets.path", "one file, or a glob"),
    "data_dir": not_carried("write path: the folder"),
    "name": carried("datasets.subset"),
    "split": carried("datasets.split", "NAME[:ROWS] also sets limit"),
    "columns": same("columns that are not read are named, and not used"),
    "fraction": carried("datasets.mix", "as weights"),
}

# TRL's own defaults where ours differ.
OWN_DEFAULTS: dict[str, Any] = {
    "gradient_checkpointing": True,
    "max_length": 1024,
    "lora_r": 16,
    "lora_alpha": 32,
    "lora_dropout": 0.05,
    "assistant_only_loss": False,
    "optim": "adamw_torch",
}
