"""Write an export of any kind: room on the disk first, then the files, whole or not at all."""

import os
from pathlib import Path

from posttrain.data import system_prompts
from posttrain.export.sources import Sources
from posttrain.exports import EXPORTS, Export
from posttrain.models.shapes import read_model
from posttrain.runtime.atomic import whole_folder
from posttrain.runtime.errors import UserError

MARGIN = 1.05  # over the weights: tokenizer, headers, what rounds up to blocks
LEAST = 16 << 20  # bytes


def write(kind: str, sources: Sources, folder: Path) -> None:
    """Write one kind of export into `folder`, whole or not at all.

    Raises:
        UserError: there is no room, or the model cannot have this kind.
    """
    row = EXPORTS[kind]
    check_room(folder, size(row, sources))
    with whole_folder(folder) as beside:
        if row.is_adapter:
            from posttrain.export import adapter

            adapter.write(sources, beside)
        elif row.gguf:
            from posttrain.export import gguf_file, ollama

            gguf_file.write(sources.model, beside, row.gguf)
            ollama.write(beside, sources.model, system_prompts.of_rows(sources.rows) if sources.rows else None)
        else:
            from posttrain.export import transformers_files

            transformers_files.write(row, sources.model, beside)
        for file in filter(Path.is_file, beside.rglob("*")):
            if file.stat().st_nlink == 1:  # else it is a link to a file of the model's, or of the user's
                file.chmod(0o644)


def size(row: Export, sources: Sources) -> int:
    """Bytes that an export takes on the disk while it is written, about; only linear layers are quantised."""
    if row.is_adapter:
        return LEAST + sum(file.stat().st_size for file in sources.trained.rglob("*") if file.is_file())
    model = read_model(sources.model)
    quantised = sum(rows * columns for rows, columns in model.matrices.values())
    bits = row.bits * quantised + 16 * (model.parameters - quantised)
    bits += 16 * model.parameters if row.needs == "llama-quantize" else 0  # which reads a file in float16
    return LEAST + round(MARGIN * bits / 8)


def check_room(folder: Path, needed: int) -> None:
    """Refuse to begin where the disk has no room for `needed` bytes.

    Raises:
        UserError: with the needed and the free bytes.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    status = os.statvfs(folder.parent)
    free = status.f_bavail * status.f_frsize
    if free < needed:
        problem = f"the export needs about {needed:,} bytes, and {free:,} are free on this disk"
        raise UserError("no-room", f"{folder}", problem, "free some space, then run the same command again")
