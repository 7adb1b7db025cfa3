"""What an export is made from."""

from pathlib import Path
from typing import Any, NamedTuple

from posttrain.models.processors import reads
from posttrain.runtime.errors import UserError


class Sources(NamedTuple):
    """A trained run, as the rules of the graph left it."""

    spec: dict[str, Any]
    """the run's"""
    model: Path
    """the trained model in float32; of a method that cannot be merged, the adapter beside its base"""
    manifest: Path
    """merge.json, with the hashes of the model's files"""
    trained: Path
    """what training wrote: an adapter, or the weights of a full fine-tuning"""
    parent: Path
    """the model that the adapter belongs to, in float32 or as its base is stored: what the first of `stages` started from"""
    before: Path
    """base.json or merge.json of that model, with the hashes of its files"""
    stages: tuple[Path, ...]
    """what training wrote of the runs whose adapters are one together, see `methods.combined`; the run's own is the last"""
    rows: Path | None = None
    """the rows that the run was trained on, where the export takes their system prompt"""


def check_text_only(model: Path, name: str) -> None:
    """Refuse to export a model that reads images or sounds: a proof asks in words alone, so it would not look at these parts.

    Args:
        model: the folder of the trained model, or of an adapter beside its base.
        name: of the run.

    Raises:
        UserError: it does.
    """
    if media := sorted(reads(model) | reads(model / "base")):
        problem = f"the model reads {' and '.join(media)}, and an export is proved on text alone"
        raise UserError("unsupported-export", name, problem, "take model/, which transformers loads with its processor")
