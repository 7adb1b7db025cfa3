"""Where a team's cache lies: what any store can do, and a folder of a file system that the team shares."""

import contextlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol

from posttrain.runtime.atomic import whole_file

BROKEN = "broken-"
ABANDONED_SECONDS = 24 * 3600  # after which a file that is still being written has lost its writer


class Entry(NamedTuple):
    """What a listing of a store says of an entry."""

    key: str
    size: int
    """bytes"""
    used: float
    """time of its last use, or of its storing"""


class Store(Protocol):
    """Where entries lie. Each method raises OSError where the store cannot be used, FileNotFoundError where an entry is missing."""

    def has(self, key: str) -> bool:
        """Whether there is an entry."""

    def reading(self, key: str) -> contextlib.AbstractContextManager[BinaryIO]:
        """The bytes of an entry, to be read once from beginning to end."""

    def mark_used(self, key: str) -> None:
        """Note that an entry was used now."""

    def put(self, key: str, write: Callable[[Any], None]) -> None:
        """Add what `write` writes, unless there is an entry when it has ended."""

    def entries(self) -> list[Entry]:
        """All entries, those set aside too."""

    def remove(self, key: str) -> None:
        """Remove an entry; another process may have done so."""

    def set_aside(self, key: str) -> None:
        """Rename an entry so that it is not found again, for people to look at."""

    def check(self, writable: bool) -> str | None:
        """Why the store cannot be used, in a few words; None where it can."""


class Folder:
    """Entries in a folder of a file system that the team shares."""

    def __init__(self, path: Path) -> None:
        """Entries in the folder `path`."""
        self.path = path

    def _file(self, key: str) -> Path:
        return self.path / f"{key}.tar"

    def _used(self, key: str) -> Path:
        return self.path / f"{key}.used"

    def has(self, key: str) -> bool:
        """See Store."""
        return self._file(key).exists()

    @contextlib.contextmanager
    def reading(self, key: str) -> Iterator[BinaryIO]:
        """See Store."""
        with self._file(key).open("rb") as file:
            yield file

    def mark_used(self, key: str) -> None:
        """See Store. A new file takes the old one's place: only its owner may change the time of a file."""
        with whole_file(self._used(key)) as file:
            file.touch()

    def put(self, key: str, write: Callable[[Any], None]) -> None:
        """See Store. A second name is given to a finished file: the file system refuses a name that is taken."""
        with tempfile.NamedTemporaryFile(dir=self.path, prefix=".", suffix=".part") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
            os.fchmod(file.fileno(), 0o444)  # for all who may enter the folder, whatever the user's umask
            with contextlib.suppress(FileExistsError):
                os.link(file.name, self._file(key))

    def entries(self) -> list[Entry]:
        """See Store; also removes what writers have left that were killed."""
        found = []
        for file in self.path.iterdir():
            with contextlib.suppress(OSError):  # gone in this moment
                status = file.stat()
                if file.suffix == ".part" and time.time() - status.st_mtime > ABANDONED_SECONDS:
                    file.unlink()
                elif file.suffix == ".tar":
                    used = self._used(file.stem)
                    time_used = used.stat().st_mtime if used.exists() else status.st_mtime
                    found.append(Entry(file.stem, status.st_size, time_used))
        return found

    def remove(self, key: str) -> None:
        """See Store."""
        self._file(key).unlink(missing_ok=True)
        self._used(key).unlink(missing_ok=True)

    def set_aside(self, key: str) -> None:
        """See Store."""
        self._file(key).rename(self._file(BROKEN + key))

    def check(self, writable: bool) -> str | None:
        """See Store; a file is written, as the rights that a file system shows are not always those that it grants."""
        try:
            next(self.path.iterdir(), None)
        except FileNotFoundError:
            return "there is no such folder"
        except OSError as error:
            return f"this user cannot read it ({error.strerror})"
        try:
            if writable:
                tempfile.TemporaryFile(dir=self.path).close()
        except OSError as error:
            return f"this user cannot write to it ({error.strerror})"
        return None
