"""Checkpoints that can be trusted: sealed by a list of their files' hashes, verified before a training goes on from one.

transformers resumes without a word, with other numbers, from a checkpoint that has lost its optimizer, scheduler or random
state. Here a checkpoint counts once its list is there, which is written last, when every other byte is on the disk:
a kill or a power cut at any moment leaves the checkpoint before it. One that does not match its list is set aside.
"""

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from posttrain.runtime.console import say
from posttrain.runtime.hashes import sha256

SEAL = "SHA256SUMS"
KEPT = 2  # sealed checkpoints that stay: should the newest turn out to be broken, there is the one before
BROKEN = "broken-"


def seal(checkpoint: Path) -> None:
    """Write the list of a finished checkpoint, and then remove those that are no longer needed."""
    write_list(checkpoint)
    for old in _checkpoints(checkpoint.parent)[KEPT:]:
        _remove(old)


def write_list(checkpoint: Path) -> None:
    """Write the list of a folder's files, once each of them is on the disk.

    `sha256sum -c checkpoint-8/SHA256SUMS` beside the checkpoint verifies it by hand.
    """
    temporary = checkpoint / f".{SEAL}"
    files, folders = _files(checkpoint), [path for path in checkpoint.rglob("*") if path.is_dir()]
    with ThreadPoolExecutor(2) as pool:  # the disk writes what the processor hashes
        synced = pool.map(_sync, [*files, *folders, checkpoint])
        temporary.write_text(_listed(checkpoint))
        list(synced)
    _sync(temporary)
    temporary.rename(checkpoint / SEAL)
    for path in (checkpoint, checkpoint.parent):
        _sync(path)


def last(folder: Path) -> Path | None:
    """The newest checkpoint that matches its list. Newer ones, which do not, are set aside as `broken-checkpoint-*`."""
    for stale in folder.glob(".gone-*"):
        shutil.rmtree(stale)
    for checkpoint in _checkpoints(folder):
        if is_whole(checkpoint):
            return checkpoint
        set_aside(checkpoint, "not as it was written, or not to its end")
    return None


def set_aside(checkpoint: Path, why: str) -> None:
    """Give a checkpoint that is of no use a name under which it is not found, for people to look at."""
    aside = checkpoint.with_name(BROKEN + checkpoint.name)
    shutil.rmtree(aside, ignore_errors=True)
    checkpoint.rename(aside)
    say(f"{checkpoint}: {why}; set aside as {aside.name}")
    for old in _checkpoints(checkpoint.parent, BROKEN)[KEPT:]:
        shutil.rmtree(old)


def is_whole(checkpoint: Path) -> bool:
    """Whether a checkpoint has exactly the files of its list, to the bit, and the step of its name."""
    file = checkpoint / SEAL
    return file.exists() and file.read_bytes() == _listed(checkpoint).encode()


def remove_unfinished(folder: Path) -> None:
    """Remove the checkpoint that was being written when writing failed; its space may be what is missing."""
    for checkpoint in _checkpoints(folder):
        if not (checkpoint / SEAL).exists():
            _remove(checkpoint)


def clear(folder: Path) -> None:
    """Remove every checkpoint, broken ones too: the training has ended."""
    for checkpoint in [*_checkpoints(folder), *_checkpoints(folder, BROKEN)]:
        shutil.rmtree(checkpoint)


def _checkpoints(folder: Path, prefix: str = "") -> list[Path]:
    """The newest first."""
    return sorted(folder.glob(f"{prefix}checkpoint-*"), key=lambda path: -int(path.name.rpartition("-")[2]))


def _remove(checkpoint: Path) -> None:
    """Remove a good checkpoint; killed half-way, what is left of it does not look like a broken one."""
    gone = checkpoint.rename(checkpoint.with_name(f".gone-{checkpoint.name}"))
    shutil.rmtree(gone)


def _listed(checkpoint: Path) -> str:
    """One line a file, as sha256sum writes and reads it, with the checkpoint's own name, which has the step."""
    return "".join(f"{sha256(file)}  {file.relative_to(checkpoint.parent)}\n" for file in _files(checkpoint))


def _files(checkpoint: Path) -> list[Path]:
    own = (SEAL, f".{SEAL}")
    return [path for path in sorted(checkpoint.rglob("*")) if path.is_file() and path.name not in own]


def _sync(path: Path) -> None:
    """Wait until a file's bytes, or a folder's names, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
