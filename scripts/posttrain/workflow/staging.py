"""Texts that a job writes to a file, such as a spec: no text of the user's goes through a shell or a command line."""

import hashlib
from pathlib import Path

from posttrain.runtime.atomic import whole_file

FOLDER = Path(".snakemake/posttrain/texts")


def staged(text: str) -> str:
    """The file from which a job copies `text`; named by its SHA-256, so that it is written once."""
    file = FOLDER / hashlib.sha256(text.encode()).hexdigest()
    if not file.exists():
        with whole_file(file) as temporary:
            temporary.write_text(f"{text}\n", encoding="utf-8")
    return str(file)
