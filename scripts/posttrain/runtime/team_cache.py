"""A team's cache: results of finished stages, found by a hash of all that they depend on, in a shared folder or an S3 bucket.

An entry is one file, `KEY.tar`: entry.json, which has the SHA-256 of each file and who made them, and the files. One file is there
whole or not at all, two writers cannot mix their files, and a reader keeps it while another process removes it. Files are
copied in both directions, so nobody's results can be changed through the cache.

Snakemake's cache between workflows (`cache: True`) hashes a rule's command, parameters and software, hence names and paths too, and
verifies nothing that it finds.
"""

import contextlib
import getpass
import hashlib
import io
import json
import os
import socket
import tarfile
import tempfile
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from posttrain.runtime.atomic import whole_folder
from posttrain.runtime.cache_folder import BROKEN, Folder, Store
from posttrain.runtime.console import say
from posttrain.runtime.errors import UserError
from posttrain.runtime.hashes import folder_hashes, sha256, visible_files

VARIABLE = "POSTTRAIN_CACHE"  # the configuration's `cache`, as JSON
LIST = "entry.json"
ONLY = "file"  # the name of the file of an entry that is no folder
S3 = "s3://"
GIB = 2**30


# ---- what a stage calls


def is_used() -> bool:
    """Whether the configuration names a cache."""
    return bool(_settings().get("path"))


def key(parts: Iterable[str]) -> str:
    """The key of a result that depends on `parts` alone: texts without names and paths, and hashes of files."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def fetch(name: str, key: str, folder: Path) -> dict[str, str] | None:
    """Fill `folder` with the files of an entry, once they are verified.

    A damaged entry is set aside. A cache that cannot be read is told, and the stage does its work without it.

    Args:
        name: of the result, for messages.
        key: see `key`.
        folder: is made whole, or not at all.

    Returns:
        `who` stored the entry and `when`; None where there is none.
    """
    if not is_used():
        return None
    try:
        there = open_store(_settings()["path"])
        if not there.has(key):
            return None
        try:
            with whole_folder(folder) as own, there.reading(key) as stream:
                entry = _unpack(stream, own)
        except (tarfile.TarError, EOFError, ValueError, KeyError) as error:
            say(f"{name}: the team's cache has a damaged entry ({error}); set aside as {BROKEN}{key}")
            there.set_aside(key)
            return None
        with contextlib.suppress(OSError):  # this user may only read
            there.mark_used(key)
    except FileNotFoundError:  # removed, or set aside by another process, in this moment
        return None
    except OSError as error:
        say(f"{name}: the team's cache cannot be read ({error}); continuing without it")
        return None
    say(f"{name}: found in the team's cache, by {entry['who']}, {entry['when']}", "summary")
    return entry


def fetch_file(name: str, key: str, file: Path) -> bool:
    """As `fetch`, of an entry that is one file; whether there was one."""
    if not is_used():
        return False
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".cached.", dir=file.parent) as scratch:
        folder = Path(scratch) / "entry"
        if fetch(name, key, folder) is None:
            return False
        (folder / ONLY).replace(file)
    return True


def store(name: str, key: str, path: Path) -> None:
    """Add a folder's files, or a file, unless the key has an entry; then remove what was not used for longest above the size limit.

    A cache that cannot be written is told, and nothing else: the result itself is there.
    """
    settings = _settings()
    if not is_used() or settings["read_only"]:
        return
    files = {str(file.relative_to(path)): file for file in visible_files(path)} if path.is_dir() else {ONLY: path}
    limit, size = settings["max_size_gib"] * GIB, sum(file.stat().st_size for file in files.values())
    if size > limit:
        say(f"{name}: larger than cache.max_size_gib, so not stored in the team's cache")
        return
    try:
        there = open_store(settings["path"])
        if not there.has(key):
            there.put(key, partial(_pack, files))
            _trim(there, limit, key)
    except OSError as error:
        say(f"{name}: not stored in the team's cache ({error})")


def check(settings: dict[str, Any]) -> None:
    """Refuse a cache that is not there, or that this user cannot read or write.

    Args:
        settings: the configuration's `cache`.

    Raises:
        UserError: with what to write instead.
    """
    if not settings["path"]:
        return
    problem = open_store(settings["path"]).check(writable=not settings["read_only"])
    if problem:
        hint = "correct the path, or ask for access; `cache: {read_only: true}` needs no right to write"
        raise UserError("unusable-cache", "cache.path", f"{settings['path']}: {problem}", hint)


def open_store(path: str) -> Store:
    """The store at a path: a folder, or `s3://BUCKET/PREFIX`."""
    if path.startswith(S3):
        from posttrain.runtime.cache_bucket import Bucket

        return Bucket(*path.removeprefix(S3).partition("/")[::2])
    return Folder(Path(path).expanduser())


def _settings() -> dict[str, Any]:
    return json.loads(os.environ.get(VARIABLE) or "{}")


# ---- entries


def _pack(files: dict[str, Path], stream: Any) -> None:
    """Write an entry: the list first, then the files."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    entry = {"who": _who(), "when": now, "files": {name: sha256(file) for name, file in files.items()}}
    text = json.dumps(entry, indent=2).encode()
    with tarfile.open(fileobj=stream, mode="w|") as tar:
        head = tarfile.TarInfo(LIST)
        head.size, head.mtime = len(text), time.time()
        tar.addfile(head, io.BytesIO(text))
        for name, file in files.items():
            tar.add(file, name, recursive=False, filter=_plain)


def _who() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        user = f"user {os.getuid()}"
    return f"{user} on {socket.gethostname()}"


def _plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """A member without its owner; a second name of a file is a file."""
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


def _unpack(stream: BinaryIO, folder: Path) -> dict[str, str]:
    """Write an entry's files to `folder` and verify them; returns who stored them, and when.

    Raises:
        ValueError: they are not those of the list.
    """
    with tarfile.open(fileobj=stream, mode="r|") as tar:
        tar.extractall(folder, filter="data")  # refuses what would leave the folder
    entry = json.loads((folder / LIST).read_text())
    (folder / LIST).unlink()
    found = folder_hashes(folder)
    wrong = sorted(name for name in found.keys() | entry["files"].keys() if found.get(name) != entry["files"].get(name))
    if wrong:
        raise ValueError(f"{wrong[0]} is not as it was stored")
    return {"who": entry["who"], "when": entry["when"]}


def _trim(there: Store, limit: float, newest: str) -> None:
    """Remove the entries that were not used for longest until the others fit the limit."""
    entries = sorted(there.entries(), key=lambda entry: (entry.key == newest, entry.used))
    size = sum(entry.size for entry in entries)
    for entry in entries[:-1]:
        if size <= limit:
            return
        there.remove(entry.key)
        size -= entry.size
