"""What a stage writes down of its own result, so that `posttrain verify` can say later whether it is still that result.

A record is the small JSON file of a result (base.json, data.json, a tokens folder's report.json, provenance.json,
eval.json). It has the SHA-256 of the result's files and a seal, the SHA-256 of the record itself, so that a number that
was edited in it is noticed. A seal is no signature: whoever wants to forge a record can compute another.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from posttrain.runtime.atomic import write_json
from posttrain.runtime.hashes import sha256

# What differs from one time to the next although the result is the same.
UNSEALED = ("seal", "seconds")
# What can change the bits of a result.
PACKAGES = ("torch", "transformers", "trl", "peft", "bitsandbytes", "datasets", "accelerate", "tokenizers", "numpy")


def sealed(values: dict[str, Any]) -> dict[str, Any]:
    """The record with its seal."""
    return values | {"seal": seal(values)}


def seal(values: dict[str, Any]) -> str:
    """SHA-256 of a record as canonical JSON, without its seal and the time that it took."""
    content = {key: value for key, value in json.loads(json.dumps(values)).items() if key not in UNSEALED}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def hashes(folder: Path, *names: str) -> dict[str, str]:
    """File name to SHA-256, of those of the named files that are there."""
    return {name: sha256(folder / name) for name in names if (folder / name).exists()}


def write_data(folder: Path, report: dict[str, Any]) -> None:
    """Write a dataset's record, data.json, with the hashes of its files."""
    written = hashes(folder, "train.parquet", "validation.parquet", "dropped.jsonl")
    write_json(folder / "data.json", sealed(report | {"written": written}))


def versions() -> dict[str, str]:
    """The installed versions of PACKAGES."""
    from importlib.metadata import version

    return {name: version(name) for name in PACKAGES}


def code_hash(scripts: Path) -> str:
    """One SHA-256 over all scripts, committed or not."""
    files = [f"{path.relative_to(scripts)} {sha256(path)}" for path in sorted(scripts.rglob("*.py"))]
    return hashlib.sha256("\n".join(files).encode()).hexdigest()
