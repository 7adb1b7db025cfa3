"""SHA-256 of files and folders."""

import hashlib
from pathlib import Path


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def visible_files(folder: Path) -> list[Path]:
    """Every file in a folder, sorted; hidden ones, such as the time stamp that Snakemake keeps there, are left out."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))


def folder_hashes(folder: Path) -> dict[str, str]:
    """Relative name to SHA-256 of every visible file in a folder."""
    return {str(path.relative_to(folder)): sha256(path) for path in visible_files(folder)}
