"""Axolotl's datasets: what becomes of their keys and of the types of their rows."""

import os
import re
from pathlib import Path
from typing import Any, NamedTuple

from posttrain.data.messages import ALIASES
from posttrain.importing.carried import Job, Row, carried, differs, name_of, not_carried, same, tables
from posttrain.objectives import OBJECTIVES


class Type(NamedTuple):
    """How rows of a type are written."""

    format: str | None
    """ours; None: recognised by the columns"""
    fields: dict[str, str]
    """our field: their column"""
    note: str


OWN_WORDS = "rows are rendered by the model's chat template here, and in words of its own there"
RECOGNISED = "the format is recognised by the columns of the rows"
TYPES: dict[str, Type] = {
    "alpaca": Type("alpaca", {}, OWN_WORDS),
    "chat_template": Type("messages", {}, ""),
    "sharegpt": Type("sharegpt", {}, ""),
    "completion": Type("text", {}, ""),
    "pretrain": Type("text", {}, ""),
    "input_output": Type("segments", {}, ""),
    "chatml.intel": Type("preference", {"prompt": "question"}, OWN_WORDS),
    "llama3.intel": Type("preference", {"prompt": "question"}, OWN_WORDS),
    "chatml.ultra": Type("preference", {}, OWN_WORDS),
    "llama3.ultra": Type("preference", {}, OWN_WORDS),
    "chat_template.argilla": Type("preference", {}, ""),
    "chatml.argilla": Type(
        "preference", {"prompt": "instruction", "chosen": "chosen_response", "rejected": "rejected_response"}, OWN_WORDS
    ),
    "chat_template.default": Type("preference", {}, ""),
    "bradley_terry.chat_template": Type("preference", {"prompt": "input"}, ""),
}
# Keys that name a column: our field, for rows of turns and for others.
COLUMNS = {
    "field_messages": "messages", "field_chosen": "chosen", "field_rejected": "rejected", "field_tools": "tools", "field": "text",
    "text_column": "text", "field_system": "system", "field_instruction": "instruction", "field_input": "input", "field_output": "output",
    "field_prompt": "prompt", "field_completion": "completion", "field_label": "label", "field_human": "prompt",
    "field_model": "completion",
}  # fmt: skip
KEYS: dict[str, Row] = {
    "path": carried("datasets.path", "or datasets.hub"),
    "type": carried("datasets.format"),
    "data_files": carried("datasets.path", "one file, or a glob"),
    "ds_type": same("the kind of a file is known by its name"),
    "name": carried("datasets.subset"),
    "split": carried("datasets.split", "NAME[:ROWS] also sets limit"),
    "revision": carried("datasets.revision"),
    **{key: carried("datasets.columns", f"{field}: COLUMN") for key, field in COLUMNS.items()},
    **dict.fromkeys(
        ("message_property_mappings", "message_field_role", "message_field_content", "roles"),
        same("these names are recognised"),
    ),
    "roles_to_train": same("the assistant's turns are trained"),
    **dict.fromkeys(("train_on_eos", "train_on_eot"), same("the token that ends a trained turn is trained")),
    "message_field_training": same("turns with train: false, weight: 0 or loss: false are not trained"),
    **dict.fromkeys(
        ("field_thinking", "template_thinking_key", "split_thinking"),
        same("reasoning_content, thinking and reasoning are recognised"),
    ),
    "chat_template": not_carried("it is a key of the base: chat_template"),
    "drop_system_message": not_carried("remove the system turns from the rows"),
    "shards": not_carried("write limit: ROWS"),
    "skip": not_carried("rows are read from the first"),
    "trust_remote_code": same("code that comes with a dataset is never executed"),
    **dict.fromkeys(("format", "no_input_format", "system_prompt", "prompt_format", "chosen_format", "rejected_format",
                     "completion_format"),
                    not_carried("rows are rendered by the model's chat template; change the texts in the file")),
}  # fmt: skip


def read(job: Job) -> None:
    """Read a job's datasets into `job.datasets`, each key of them listed."""
    for key in ("datasets", "pretraining_dataset"):
        for number, given in enumerate(tables(job, key, job.source[key]) if job.source.get(key) else []):
            entry = dict(given)
            if key == "pretraining_dataset":
                entry.setdefault("type", "pretrain")
            name, table = _table(job, f"{key}.{number}", entry)
            while name in job.datasets:
                name += "_more"
            job.datasets[name] = table


def _table(job: Job, place: str, entry: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    table: dict[str, Any] = {}
    columns: dict[str, str] = {}
    flat = {key: value for key, value in entry.items() if key != "type"}
    if isinstance(entry.get("type"), dict):
        flat |= entry["type"]
    for key, value in flat.items():
        row = same("it is empty, so the tool's default applies") if value is None else _key(key, value, table, columns)
        job.tell(row, f"{place}.{key}", value)
    row = _type(job, entry.get("type"), table, columns)
    job.tell(row, f"{place}.type", entry.get("type"))
    if columns:
        table["columns"] = columns
    path = str(entry.get("path"))
    files = entry.get("data_files")
    files = files[0] if isinstance(files, list) and len(files) == 1 else files
    source = (
        files
        if isinstance(files, str) and (Path(path).suffix == "" and path in ("json", "csv", "parquet", "arrow", "text"))
        else path
    )
    beside = Path(job.file).parent / source
    if (
        Path(source).exists()
        or source.startswith(("/", ".", "~"))
        or re.search(r"\.(jsonl?|csv|tsv|parquet|arrow)$", source)
    ):
        found = {"path": source if Path(source).exists() or not beside.exists() else os.path.relpath(beside)}
    else:
        found = {"hub": source}
    return name_of(source), found | table


def _key(key: str, value: Any, table: dict[str, Any], columns: dict[str, str]) -> Row:
    row = KEYS.get(key) or not_carried("there is no counterpart")
    if key in COLUMNS:
        if COLUMNS[key] != value:
            columns[COLUMNS[key]] = str(value)
    elif key == "name":
        table["subset"] = str(value)
    elif key == "revision":
        table["revision"] = str(value)
    elif key == "split":
        return rows_of_split(str(value), table)
    elif key in ("message_property_mappings", "roles"):
        return _turns(key, value)
    elif key == "data_files" and isinstance(value, list) and len(value) > 1:
        return not_carried("several files: write a glob, or a dataset for each and a mix")
    return row


def rows_of_split(value: str, table: dict[str, Any]) -> Row:
    """A split and its rows, as in train[:100]; they are put into the dataset's `table`."""
    found = re.fullmatch(r"(\w+)(?:\[:(\d+)(%?)\])?", value)
    if not found:
        return not_carried("write split: NAME and limit: ROWS")
    table["split"] = found[1]
    if found[2] and found[3]:
        return differs("datasets.split", f"a share of the rows: write limit: ROWS, as {found[2]} % are")
    if found[2]:
        table["limit"] = int(found[2])
    return carried("datasets.split", "NAME[:ROWS] also sets limit")


def _turns(key: str, value: dict[str, Any]) -> Row:
    if key == "roles":
        strange = [word for role, words in value.items() for word in words if ALIASES.get(str(word).lower()) != role]
    else:
        known = {"role": ("role", "from"), "content": ("content", "value")}
        strange = [str(name) for field, name in value.items() if name not in known.get(field, (field,))]
    return (
        not_carried(f"rename {', '.join(strange)} in the file, to role, content, user, assistant")
        if strange
        else KEYS[key]
    )


def _type(job: Job, given: Any, table: dict[str, Any], columns: dict[str, str]) -> Row:
    """The format of the rows, from the type's name and from the columns that are named."""
    kind = "" if isinstance(given, dict) or given is None else str(given).partition(":")[0]
    kind = kind if kind in TYPES else kind.partition(".")[0]
    found = TYPES.get(kind)
    if "unpaired_preference" in OBJECTIVES[job.objective].data:
        table["format"], found = "unpaired_preference", found or Type(None, {}, OWN_WORDS)
    elif isinstance(given, dict):
        table["format"] = "preference" if OBJECTIVES[job.objective].data == ("preference",) else "alpaca"
        return differs("datasets.format", OWN_WORDS)
    elif found is None or found.format is None:
        return differs("datasets.format", RECOGNISED)
    else:
        paired = OBJECTIVES[job.objective].data == ("preference",)
        table["format"] = "preference" if paired else found.format
        if not paired and found.format == "preference":
            del table["format"]
    for ours, column in found.fields.items():
        columns.setdefault(ours, column)
    if table.get("format") == "messages" and columns.get("messages") == "conversations":
        del columns["messages"]
        table["format"] = "sharegpt"
    if table.get("format") == "preference" and columns.get("messages") in ("conversations", "messages"):
        del columns["messages"]
    return differs("datasets.format", found.note) if found.note else carried("datasets.format", found.format or "")
