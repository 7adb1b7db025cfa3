"""Files and folders that are written whole or not at all."""

import contextlib
import glob
import json
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A folder to fill, which takes the place of `path` when the block ends well and is removed when it does not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for stale in path.parent.glob(f".{glob.escape(path.name)}.*"):  # of a process that was killed; the lock is ours
        shutil.rmtree(stale)
    beside, old = (Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent)) for _ in range(2))
    try:
        yield beside
        beside.chmod(0o755)
        with contextlib.suppress(FileNotFoundError):
            path.rename(old)  # so that `path` is away for no longer than a moment, in which nobody looks
        beside.rename(path)
    except Exception as error:
        error.add_note(str(path))
        raise
    finally:
        for folder in (beside, old):
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A file to write, which takes the place of `path` when the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    own = f".{path.name}.{socket.gethostname()}."  # of this machine: another one's processes cannot be seen
    beside = path.with_name(f"{own}{os.getpid()}")
    for stale in path.parent.glob(f"{glob.escape(own)}*"):
        process = stale.suffix[1:]
        if process.isdigit() and not Path(f"/proc/{process}").exists():  # it was killed
            stale.unlink(missing_ok=True)
    try:
        yield beside
        beside.replace(path)
    except Exception as error:
        error.add_note(str(path))
        raise
    finally:
        beside.unlink(missing_ok=True)


def write_json(path: Path, values: Any) -> None:
    """Write JSON for people and programs, whole or not at all."""
    with whole_file(path) as file:
        file.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file that a stage wrote."""
    return json.loads(path.read_text())


def link(source: Path, target: Path) -> None:
    """Give a file a second name; copy it where the file system cannot."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copy2(source, target)
