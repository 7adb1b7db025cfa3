"""Folders that `save_to_disk` of Hugging Face's `datasets` wrote: one of Arrow files, or one of such folders for each split."""

import json
from pathlib import Path
from typing import Any

SPLITS, STATE = "dataset_dict.json", "state.json"
DESCRIPTIONS = (SPLITS, STATE, "dataset_info.json", "dataset_infos.json")  # files that hold no rows


def splits(folder: Path) -> list[str] | None:
    """The splits of a folder that has several; None if it is not such a folder."""
    found = _read(folder / SPLITS)
    names = found.get("splits") if isinstance(found, dict) else None
    return names if isinstance(names, list) and all(isinstance(name, str) for name in names) else None


def files(folder: Path) -> list[str] | None:
    """The names of a split's files; a folder may also have files that `map` cached. None if it is not such a folder."""
    found = _read(folder / STATE)
    listed = found.get("_data_files") if isinstance(found, dict) else None
    names = [file.get("filename") if isinstance(file, dict) else None for file in listed or ()]
    return names if names and all(isinstance(name, str) and Path(name).name == name for name in names) else None


def _read(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
    except (OSError, ValueError, RecursionError):
        return None
