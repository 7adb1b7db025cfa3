"""The files of a dataset, and their rows block by block, so that memory does not grow with them."""

import fnmatch
import glob
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from posttrain.data import saved_datasets
from posttrain.data.readers import arrow, delimited, json_list, jsonl, parquet
from posttrain.data.readers.blocks import Block
from posttrain.data.readers.text import COMPRESSED, first_line
from posttrain.runtime.errors import UserError, nearest

MAX_ENTRIES = 100_000  # files and folders that a search looks at

# A new kind of file is a row here and a module in readers/.
READERS: dict[str, Callable[[Path], Iterator[Block]]] = {
    ".jsonl": jsonl.read,
    ".json": json_list.read,
    ".csv": delimited.read,
    ".tsv": delimited.read,
    ".parquet": parquet.read,
    ".arrow": arrow.read,
}
SUFFIXES = tuple(READERS)


def suffix(path: Path) -> str:
    """The kind of a file's content: its ending, without `.gz` and `.zst`.

    Raises:
        UserError: no reader knows it.
    """
    kind = _unpacked(path)
    if kind not in SUFFIXES:
        hint = f"{nearest(kind, SUFFIXES)}, and .gz or .zst of these"
        raise UserError("unknown-file-kind", str(path), f"unknown kind of file '{kind}'", hint)
    return kind


def _unpacked(path: Path) -> str:
    return Path(path.stem).suffix if path.suffix in COMPRESSED else path.suffix


def expand(pattern: str, folder: Path = Path()) -> list[Path]:
    """The files that a path, a glob or a folder stands for, sorted, relative to `folder`; an empty list if there are none.

    Raises:
        UserError: a folder of too many files, such as `/`, would have to be searched.
    """
    path = folder / pattern
    if is_file(path):
        return [Path(pattern)]
    if is_folder(path):
        names = saved_datasets.files(path)
        if names is not None:
            return [Path(pattern, name) for name in names if is_file(path / name)]
        return sorted(file for file in _search(Path(pattern), ["**"], folder) if is_data(file))
    parts = Path(pattern).parts
    start = next((i for i, part in enumerate(parts) if glob.has_magic(part)), len(parts))
    return sorted(_search(Path(*parts[:start]), parts[start:], folder)) if start < len(parts) else []


def is_file(path: Path) -> bool:
    """Whether a path is a regular file, not a pipe or a device; False for a name that is too long for the file system."""
    return os.path.isfile(path)  # noqa: PTH113  (Path.is_file raises for a name that is too long)


def is_folder(path: Path) -> bool:
    """Whether a path is a folder; False for a name that is too long for the file system."""
    return os.path.isdir(path)  # noqa: PTH112


def _search(top: Path, parts: Sequence[str], folder: Path) -> set[Path]:
    """The files under `top` that a glob's parts stand for; `**` does not follow links, which may form a cycle."""
    files, pending, seen = set(), [(str(top), 0)], 0
    while pending:
        place, i = pending.pop()
        part, last = parts[i], i + 1 == len(parts)
        if part == "**" and not last:
            pending.append((place, i + 1))
        if not glob.has_magic(part):
            here = f"{place}/{part}"
            if not last:
                pending.append((here, i + 1))
            elif is_file(folder / here):
                files.add(Path(here))
            continue
        for entry in _entries(folder / place):
            seen += 1
            if entry.name.startswith(".") and not part.startswith("."):
                continue
            if part == "**" and entry.is_dir(follow_symlinks=False):
                pending.append((f"{place}/{entry.name}", i))
            elif (part == "**" and last) or (part != "**" and fnmatch.fnmatchcase(entry.name, part)):
                if not last:
                    pending.append((f"{place}/{entry.name}", i + 1))
                elif is_file(entry.path):
                    files.add(Path(place, entry.name))
        if seen > MAX_ENTRIES:
            problem = f"the search for rows stops after {MAX_ENTRIES:,} files and folders"
            raise UserError("too-many-files", str(top), problem, "name the files, or a smaller folder")
    return files


def _entries(folder: Path) -> list[os.DirEntry]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except (OSError, ValueError):  # not a folder, or not readable
        return []


def is_data(path: Path) -> bool:
    """Whether a file's name says that it holds rows: a folder has its card, its licence and its description as well."""
    return _unpacked(path) in SUFFIXES and path.name not in saved_datasets.DESCRIPTIONS


def blocks(path: Path) -> Iterator[Block]:
    """The blocks of a file.

    Raises:
        UserError: the file as a whole cannot be read; what is wrong with one row is found by `Block.parse`.
    """
    name = str(path)
    if "\n" in name or name.encode("utf-8", "replace").decode() != name:  # it is in each row's place
        raise UserError("unreadable-file", repr(name), "the file's name is not one line of UTF-8", "rename it")
    read = READERS[suffix(path)]
    if not is_file(path):  # reading a pipe or a device would never end
        raise UserError("missing-file", name, "there is no such file", "check the path")
    if path.stat().st_size == 0:
        raise UserError("no-rows", name, "the file is empty", "write at least one row")
    try:
        yield from read(path)
    except (OSError, EOFError) as error:
        hint = f"check that it is whole ({first_line(error)})"
        raise UserError("unreadable-file", name, "it cannot be read to its end", hint) from None
