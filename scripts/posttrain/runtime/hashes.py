"""SHA-256 of files and folders."""

import hashlib
from pathlib import Path

from posttrain.runtime.errors import UserError


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_named(path: Path) -> bytes:
    """The bytes of a file that is named by their SHA-256, `{sha256}.{ending}`.

    Raises:
        UserError: it is missing, or has other bytes.
    """
    try:
        content = path.read_bytes()
    except OSError:
        raise UserError("missing-file", str(path), "there is no such file", "build the dataset again") from None
    if hashlib.sha256(content).hexdigest() != path.stem:
        hint = "remove it and build the dataset again; a file beside the data is linked to, so replace such a file and do not edit it"
        raise UserError("unreadable-file", str(path), "its content is not what it was when the dataset was read", hint)
    return content


def visible_files(folder: Path) -> list[Path]:
    """Every file in a folder, sorted; hidden ones, such as the time stamp that Snakemake keeps there, are left out."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))


def folder_hashes(folder: Path) -> dict[str, str]:
    """Relative name to SHA-256 of every visible file in a folder."""
    return {str(path.relative_to(folder)): sha256(path) for path in visible_files(folder)}
