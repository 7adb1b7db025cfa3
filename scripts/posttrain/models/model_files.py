"""The files of a model's folder: which are its own, and which it takes from the model that it was made from."""

import json
from pathlib import Path

from posttrain.runtime.atomic import link, read_json
from posttrain.runtime.hashes import visible_files

SPECIAL = ("bos_token_id", "eos_token_id", "pad_token_id")


def is_own(file: Path) -> bool:
    """Whether a model's file is its own: its weights, their configuration, its card; the others are its parent's."""
    return file.name in ("README.md", "config.json", "adapter_config.json") or ".safetensors" in file.name


def link_all(source: Path, target: Path, without: tuple[str, ...] = ()) -> None:
    """Link a folder's files, those of its folders too; Snakemake's time stamp stays with the folder that it is of."""
    for file in visible_files(source):
        if file.name not in without:
            link(file, target / file.relative_to(source))


def carry(source: Path, folder: Path) -> None:
    """Take everything but the weights from another folder: tokenizer, chat templates, generation configuration, special tokens.

    A trainer writes the special tokens that it found in the tokenizer into the model's configuration, and a merge those of its
    own defaults; both would stop elsewhere than the parent does.
    """
    (folder / "generation_config.json").unlink(missing_ok=True)
    for file in visible_files(source):
        if not is_own(file):
            target = folder / file.relative_to(source)
            target.unlink(missing_ok=True)
            link(file, target)
    ours, theirs = folder / "config.json", source / "config.json"
    if ours.exists():
        special = read_json(theirs)
        config = read_json(ours) | {key: special[key] for key in SPECIAL if special.get(key) is not None}
        ours.unlink()  # it may be a link
        ours.write_text(json.dumps(config, indent=2, ensure_ascii=False, sort_keys=True) + "\n")
