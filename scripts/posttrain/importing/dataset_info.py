"""LLaMA-Factory's dataset_info.json: what becomes of its entries."""

import json
import os
from pathlib import Path
from typing import Any

from posttrain.data.messages import ALIASES
from posttrain.importing.carried import Job, Row, carried, differs, listed, name_of, not_carried, same
from posttrain.runtime.errors import UserError, nearest

LATER = "images come later; this file trains on images, video or audio"
READ = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".arrow")
# Columns of an entry: our field of a row of text, and of a row of messages.
FIELDS = {
    "prompt": "instruction", "query": "input", "response": "output", "history": "history", "system": "system", "tools": "tools",
    "messages": "messages", "chosen": "chosen", "rejected": "rejected", "kto_tag": "label",
}  # fmt: skip
ALPACA = {"prompt": "instruction", "query": "input", "response": "output"}  # where an entry names no columns
TAGS = {
    "role_tag": ("from", "role"), "content_tag": ("value", "content"), "user_tag": "user", "assistant_tag": "assistant",
    "observation_tag": "tool", "function_tag": "assistant", "system_tag": "system",
}  # fmt: skip

KEYS: dict[str, Row] = {
    "file_name": carried("datasets.path"),
    "hf_hub_url": carried("datasets.hub"),
    "subset": carried("datasets.subset"),
    "split": carried("datasets.split"),
    "formatting": carried("datasets.format", "alpaca, sharegpt or openai, with ranking and kto_tag"),
    "ranking": carried("datasets.format", "preference"),
    "columns": carried("datasets.columns", "their column: our field"),
    "tags": same("these names of roles and turns are recognised"),
    "num_samples": differs("datasets.limit", "the first rows here, and rows drawn at random there"),
    "folder": not_carried("write path: the folder, for a dataset that is on this machine"),
    **dict.fromkeys(
        ("ms_hub_url", "om_hub_url"), not_carried("datasets are read from files or from the Hugging Face Hub")
    ),
}


def read(job: Job, file: Path, names: list[str], text: bool) -> None:
    """Read the entries of a job's datasets into `job.datasets`.

    Args:
        file: the training file, beside or below whose folder the dataset folder is looked for.
        names: of the entries.
        text: whether the rows are text to train on whole, as for stage pt.

    Raises:
        UserError: an entry is missing, or has images or a source that is not read.
    """
    folder = _folder(job, file)
    online = {name: {"hf_hub_url": name} for name in names}
    entries = _entries(folder / "dataset_info.json") if folder else online
    for name in names:
        if not isinstance(entries.get(name), dict):
            raise UserError(
                "unknown-name", f"{file}: dataset", f"dataset_info.json has no {name}", nearest(name, entries)
            )
        job.datasets[name_of(name)] = _table(job, name, entries[name], folder, text)
    if job.source.get("eval_dataset"):
        _validation(job, entries, folder)


def _entries(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise UserError("unreadable-file", str(file), f"it cannot be read ({error})") from None
    if not isinstance(found, dict):
        raise UserError("unreadable-file", str(file), "it is not a table of datasets")
    return found


def _folder(job: Job, file: Path) -> Path | None:
    """The folder of dataset_info.json: from the current one, or from those above the file; None if names are hub ids."""
    given = str(job.source.get("dataset_dir") or "data")
    if given == "ONLINE":
        return None
    if given.startswith("REMOTE:"):
        raise UserError(
            "cannot-import",
            f"{file}: dataset_dir",
            "its dataset_info.json is on the hub",
            "download it, and name its folder",
        )
    for start in (Path(), *file.resolve().parents):
        if (start / given / "dataset_info.json").is_file():
            return start / given
    hint = "run the command in the folder that LLaMA-Factory was run in, or set dataset_dir"
    raise UserError("missing-file", f"{file}: dataset_dir", f"there is no {given}/dataset_info.json", hint)


def _table(job: Job, name: str, entry: dict[str, Any], folder: Path | None, text: bool) -> dict[str, Any]:
    """Our table of a dataset, each key of the entry listed."""
    columns = {key: column for key, column in (entry.get("columns") or {}).items() if column}
    if {"images", "videos", "audios"} & columns.keys():
        raise UserError("cannot-import", f"{job.file}: dataset {name}", LATER)
    for key, value in entry.items():
        row = KEYS.get(key) or not_carried("there is no counterpart")
        if key == "tags":
            row = _tags(value)
        job.tell(row, f"dataset_info.{name}.{key}", value)
    source = _source(job, name, entry, folder)
    shape, fields = _shape(entry, columns, text)
    limit = {"limit": int(entry["num_samples"])} if entry.get("num_samples") else {}
    more = {key: entry[key] for key in ("subset", "split") if entry.get(key)}
    return source | more | {"format": shape} | ({"columns": fields} if fields else {}) | limit


def _source(job: Job, name: str, entry: dict[str, Any], folder: Path | None) -> dict[str, Any]:
    if "hf_hub_url" in entry:
        return {"hub": entry["hf_hub_url"]}
    place = f"{job.file}: dataset {name}"
    if "file_name" not in entry:
        raise UserError(
            "cannot-import",
            place,
            "it is neither a file nor on the Hugging Face Hub",
            "download it, and give it a file_name",
        )
    path = folder / entry["file_name"]
    if path.suffix not in ("", *READ):
        hint = "write it as .jsonl, one object with a field `text` a line"
        raise UserError("cannot-import", place, f"files like {path.name} are not read", hint)
    return {"path": os.path.relpath(path)}


def _shape(entry: dict[str, Any], columns: dict[str, str], text: bool) -> tuple[str, dict[str, str]]:
    """The format of the rows, and our fields whose columns have other names."""
    turns = entry.get("formatting") in ("sharegpt", "openai")
    if not columns:
        columns = {"messages": "conversations"} if turns else dict(ALPACA)
    if turns:
        columns.setdefault("messages", "conversations")
    if text:
        return "text", {"text": columns.get("prompt", "instruction")} if columns.get(
            "prompt", "instruction"
        ) != "text" else {}
    found = {FIELDS[key]: column for key, column in columns.items() if key in FIELDS}
    if entry.get("ranking"):
        shape = "preference"
        found.pop("output", None)
    elif "kto_tag" in columns:
        shape = "unpaired_preference"
    else:
        shape = "messages" if turns else "alpaca"
    if found.get("messages") == "conversations" and turns:  # which is a field of ours as well
        del found["messages"]
        shape = "sharegpt" if shape == "messages" else shape
    return shape, {ours: column for ours, column in found.items() if ours != column}


def _tags(tags: dict[str, str]) -> Row:
    strange = [
        f"{key}: {said}"
        for key, said in tags.items()
        if (
            said not in TAGS[key]
            if isinstance(TAGS.get(key), tuple)
            else ALIASES.get(str(said).lower()) != TAGS.get(key)
        )
    ]
    return (
        not_carried(f"rename {', '.join(strange)} in the file, to names such as role, content, user, assistant")
        if strange
        else KEYS["tags"]
    )


def _validation(job: Job, entries: dict[str, Any], folder: Path | None) -> None:
    """Held-out rows of their own, where they are one file for the one dataset that is trained."""
    names = listed(job.source["eval_dataset"])
    entry = entries.get(names[0], {})
    if len(names) == 1 and len(job.datasets) == 1 and "file_name" in entry and folder:
        job.set("datasets.validation", os.path.relpath(folder / entry["file_name"]))
        return
    job.lists["carried"] = [found for found in job.lists["carried"] if found.key != "eval_dataset"]
    job.tell(not_carried("write validation: FILE at each dataset"), "eval_dataset", job.source["eval_dataset"])
