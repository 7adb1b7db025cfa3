"""The files that rows are about, pictures and sounds: checked, brought into the dataset's folder and named by their content.

A normalised row names them `media/{sha256}.{ending}`, relative to the folder of its dataset, so that its id depends on what is in
them. They come from beside the data, from bytes in a table, or from a `data:` address. Nothing is fetched from the network.
"""

import base64
import os
import re
import tempfile
from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from posttrain.data import pictures, sounds
from posttrain.data.files import is_file
from posttrain.data.messages import check_text, from_json, kind, short
from posttrain.runtime.atomic import link
from posttrain.runtime.errors import UserError
from posttrain.runtime.hashes import read_named, sha256

FOLDER = "media"
MAX_BYTES = 1 << 28  # of a file
_ADDRESS = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]+://")
_DATA = re.compile(r"data:[\w.+/-]*(?:;[\w=.-]+)*;base64,")


class Kind(NamedTuple):
    """A kind of media."""

    mark: str
    """in a row's text, once for each file"""
    noun: str
    code: str
    """of errors"""
    ending: Callable[[Path], str]
    """checks a file, and says how the names of such files end"""


def _of_picture(file: Path) -> str:
    return pictures.ENDINGS[pictures.check(file).kind]


def _of_sound(file: Path) -> str:
    return sounds.ENDINGS[sounds.check(file, "").kind]


# By the column of a normalised row.
KINDS = {
    "images": Kind("<image>", "image", "unreadable-image", _of_picture),
    "audios": Kind("<audio>", "sound file", "unreadable-sound", _of_sound),
}

Source = str | bytes | dict[str, Any]
"""a path, a `data:` address, the bytes, or a table's `{bytes, path}`"""


class Store(NamedTuple):
    """Where the files of rows come from, and where they are brought."""

    sources: Path = Path()
    """the folder that paths are relative to, and that they may not leave"""
    folder: Path | None = None
    """the dataset's; None where files are only checked"""

    def names(self, sources: list[Source], column: str, place: str) -> list[str]:
        """The names of a row's files in the dataset's folder.

        Raises:
            UserError: one is missing, broken, too large, outside of the folder, or on the network.
        """
        return [self._name(source, column, number, place) for number, source in enumerate(sources, 1)]

    def _name(self, source: Source, column: str, number: int, place: str) -> str:
        if isinstance(source, dict):
            source = source.get("path") if source.get("bytes") is None else source["bytes"]
        try:
            if isinstance(source, str) and source.startswith("data:"):
                source = _decoded(source, column, number)
            if isinstance(source, bytes):
                return self._of_bytes(source, column, number)
            file = self._file(source, column)
            status = file.stat()
            return _brought(self, column, file, status.st_mtime_ns, status.st_size)
        except UserError as error:
            raise UserError(error.code, place, error.problem, error.hint) from None

    def _file(self, path: Any, column: str) -> Path:
        """The file at a path.

        Raises:
            UserError: it is an address, leaves the folder, or is no file.
        """
        row = KINDS[column]
        path = path.removeprefix("file://")
        if _ADDRESS.match(path):
            problem = f"the {row.noun} '{short(path)}' is an address, and nothing is fetched"
            raise UserError(row.code, "", problem, "download it, and write its path")
        file = self.sources / path
        top, there = os.path.abspath(self.sources), os.path.abspath(file)  # noqa: PTH100  (links lead elsewhere in the hub's cache)
        if os.path.commonpath([top, there]) != top:
            problem = f"the {row.noun} '{short(path)}' is outside of the folder '{top}'"
            raise UserError(row.code, "", problem, "copy it there, or set `image_folder:`")
        if not is_file(file):
            if os.path.exists(file):  # noqa: PTH110  (Path.exists raises for a name that is too long)
                raise UserError(
                    row.code, "", f"'{file}' is no file", "replace it"
                )  # a folder, or a pipe, which never ends
            raise UserError(row.code, "", f"there is no {row.noun} '{file}'", "check the path, or set `image_folder:`")
        return file

    def _of_bytes(self, content: bytes, column: str, number: int) -> str:
        where = self.folder / FOLDER if self.folder else Path(tempfile.gettempdir())
        where.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=".", dir=where)
        scratch = Path(name)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            scratch.chmod(0o644)
            return self._bring(column, scratch)
        except UserError as error:
            problem = error.problem.replace(f"'{scratch}'", f"{KINDS[column].noun} {number} of the row")
            raise UserError(error.code, "", problem, error.hint) from None
        finally:
            scratch.unlink(missing_ok=True)

    def _bring(self, column: str, file: Path) -> str:
        """Check a file, give it its name and store it under that."""
        row = KINDS[column]
        if file.stat().st_size > MAX_BYTES:
            raise UserError(row.code, "", f"'{file}' has more than {MAX_BYTES >> 20} MiB", "make it smaller")
        ending = row.ending(file)
        name = f"{FOLDER}/{sha256(file)}.{ending}"
        if self.folder and not (self.folder / name).exists():
            place(file, self.folder / name)
        return name


@lru_cache(maxsize=1 << 14)  # many rows are about the same picture
def _brought(store: Store, column: str, file: Path, changed: int, size: int) -> str:
    return store._bring(column, file)


def _decoded(address: str, column: str, number: int) -> bytes:
    """The bytes of a `data:` address."""
    row = KINDS[column]
    head = _DATA.match(address)
    if head:
        try:
            return base64.b64decode("".join(address[head.end() :].split()), validate=True)
        except ValueError:  # binascii.Error is one
            pass
    problem = f"{row.noun} {number} of the row is a data: address that is not base64"
    raise UserError(row.code, "", problem, "write data:image/png;base64, and then the bytes in base64")


def place(file: Path, target: Path) -> None:
    """Give a file a second name, whole or not at all; copy it where the file system cannot."""
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_name(f".{os.getpid()}.{target.name}")
    beside.unlink(missing_ok=True)
    link(file, beside)
    beside.replace(target)
    beside.unlink(missing_ok=True)  # two names of one file are not renamed to each other


# ---- the folder


def read(folder: Path, name: str) -> bytes:
    """The bytes of a file that a row names.

    Raises:
        UserError: it is missing, or its bytes are others than when the dataset was read.
    """
    return read_named(folder / name)


def bring_over(names: Iterable[str], source: Path, target: Path) -> None:
    """Give files of one dataset's folder to another's."""
    for name in names:
        if not (target / name).exists():
            place(source / name, target / name)


def prune(folder: Path, names: set[str]) -> None:
    """Remove what no row names from a dataset's folder: files of rows that were left out, or of an earlier build."""
    if not (folder / FOLDER).is_dir():
        return
    for entry in list(os.scandir(folder / FOLDER)):
        if f"{FOLDER}/{entry.name}" not in names:
            Path(entry.path).unlink()
    if not names:
        (folder / FOLDER).rmdir()


# ---- rows


def sources(value: Any, column: str, place: str) -> list[Source]:
    """The files of a row's field: one, or a list of them, also as JSON text.

    Raises:
        UserError: it is something else.
    """
    value = from_json(value)
    found = [value] if isinstance(value, str | bytes | dict) else value
    noun = KINDS[column].noun
    if not isinstance(found, list) or not all(map(_is_source, found)):
        raise UserError("invalid-row", place, f"the {column} are a list of paths, and this is {kind(value)}")
    for source in found:
        path = source if isinstance(source, str | bytes) else source.get("bytes") or source.get("path")
        if not isinstance(path, bytes):
            check_text(path, f"path of an {noun}" if column == "images" else f"path of a {noun}", place)
    return found


def _is_source(value: Any) -> bool:
    if isinstance(value, dict):
        return isinstance(value.get("bytes"), bytes) or (
            value.get("bytes") is None and isinstance(value.get("path"), str)
        )
    return isinstance(value, str | bytes)
