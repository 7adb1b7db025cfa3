"""What a training stage reads: rows in the order of training, prompts, the parent; and the folder that belongs to all of it."""

import hashlib
import json
import os
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import set_seed

from posttrain.data.row_order import row_order
from posttrain.data.rows import read
from posttrain.inference import media, positions, reward_models
from posttrain.models import loading
from posttrain.models.processors import processor
from posttrain.objectives import OBJECTIVES, data_refusal
from posttrain.runtime import team_cache
from posttrain.runtime.atomic import read_json
from posttrain.runtime.console import say
from posttrain.runtime.errors import UserError
from posttrain.runtime.hashes import sha256
from posttrain.training import held_out, strategies
from posttrain.training.arguments import fast_kernels, uses_flash_attention

MANIFESTS = ("merge.json", "base.json")  # files that stand for a model's
AFTER_TRAINING = ("merge_into", "save_precision")  # keys of a spec that say what is done with the result


def read_columns(file: Path, columns: tuple[str, ...]) -> list[list]:
    """Columns of a Parquet file."""
    import pyarrow.parquet as pq

    return [column.to_pylist() for column in pq.read_table(file, columns=list(columns)).columns]


def read_tokens(file: Path, columns: tuple[str, ...]) -> Any:
    """A Parquet file of tokens as a dataset in memory."""
    import pyarrow.parquet as pq
    from datasets import Dataset

    return Dataset(pq.read_table(file, columns=list(columns)))


def ordered(dataset: Any, spec: dict, lengths: list[int], batch_size: int | None = None) -> Any:
    """The dataset's rows in `row_order`."""
    batch_size = batch_size or spec["batch_size"]
    return dataset.select(row_order(lengths, batch_size, spec["epochs"], spec["max_steps"], spec["seed"]))


def check_dataset_type(report: Path, objective: str, dataset: str) -> None:
    """Refuse rows of a type that the objective cannot train on.

    Args:
        report: of the data or of its tokens.

    Raises:
        UserError: with the types that it needs and the objectives that the given one fits.
    """
    if refusal := data_refusal(objective, dataset, read_json(report)["shape"]):
        raise UserError("wrong-dataset-type", f"dataset {dataset}", refusal)


def read_prompts(options: Namespace, spec: dict, tokenizer: Any, tools: str | None = None) -> list[dict]:
    """The training prompts of an objective that samples its completions, without those that leave no room for one.

    Args:
        tools: the descriptions (JSON) of the tools of the run's environment, which each prompt begins with.

    Raises:
        UserError: no prompt is left.
    """
    given = read(options.data / "train.parquet")
    given = [row | {"tools": tools} for row in given] if tools else given
    rows = media.questions(processor(options.parent), tokenizer, given, options.data)
    room = spec["max_length"] - spec["max_new_tokens"]
    kept = [row for row in rows if len(row["prompt_ids"]) <= room]
    name = spec["data"]["name"]
    if not kept:
        raise UserError(
            "too-long",
            f"dataset {name}",
            f"every prompt is longer than max_length - max_new_tokens = {room} tokens",
            "write a larger max_length",
        )
    if len(kept) < len(rows):
        say(f"{name}: {len(rows) - len(kept)} of {len(rows)} prompts are longer than {room} tokens, and left out")
    return kept


def check_positions(model: Any, prompts: list[dict], spec: dict) -> None:
    """Refuse prompts and completions that go beyond the positions that a model has learnt.

    Raises:
        UserError: before a step is taken.
    """
    longest = max(len(row["prompt_ids"]) for row in prompts) + spec["max_new_tokens"] + spec.get("virtual_tokens", 0)
    positions.check(model, longest, f"dataset {spec['data']['name']}")


def reward_files(options: Namespace, spec: dict) -> list[Path]:
    """The files that stand for everything that an on-policy objective reads: parent, prompts, models of the reward."""
    rewards = spec.get("reward", {})
    names = [rewards[key]["name"] for key in ("from", "sequence", "reference") if key in rewards]
    models = reward_folders(options)
    return [options.manifest, options.data / "train.parquet", *(reward_models.manifest(models[name]) for name in names)]


def reward_folders(options: Namespace) -> dict[str, Path]:
    """The folders of the models that the reward comes from, by name."""
    return {folder.name: folder for folder in options.reward_models}


def load_parent(folder: Path, spec: dict, classes: Sequence[str] = ()) -> Any:
    """The model to train, see `loading.parent`; a classifier has these `classes`.

    Seeds every generator as well, since PEFT draws the adapter's first weights before TRL sets any seed.
    """
    set_seed(spec["seed"])
    return loading.parent(
        folder,
        spec,
        reward=OBJECTIVES[spec["objective"]].scores,
        attention="flash_attention_2" if uses_flash_attention(spec) else None,
        device=strategies.loads_on(spec),
        classes=classes,
    )


def work_folder(options: Namespace, files: list[Path]) -> Path:
    """The stage's own folder under checkpoints/, named by a hash of everything that its result depends on.

    It is beside the run's results, or below the folder that POSTTRAIN_CHECKPOINTS names.

    Args:
        files: what the stage reads beside its spec and the held-out rows that it measures.
    """
    spec = read_json(options.spec)
    parts = [json.dumps(_training_settings(spec), sort_keys=True), *_arithmetic(spec)]
    parts += map(sha256, [*files, *held_out.inputs(options, spec)])
    run = options.spec.parent
    if elsewhere := os.environ.get("POSTTRAIN_CHECKPOINTS"):  # what the next node sees as well
        run = Path(elsewhere) / run.name
    folder = run / "checkpoints" / team_cache.key(parts)[:16]
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def team_key(options: Namespace, files: list[Path]) -> str:
    """The key of a training in the team's cache: as that of `work_folder`, without the names that this user has given.

    What the spec says of another result (its name, and a hash in which are the names of that one's inputs) is left out: the content of
    `files` stands for it, of a model the hashes of its weights.
    """
    spec = read_json(options.spec)
    parts = [json.dumps(_without_names(_training_settings(spec)), sort_keys=True), *_arithmetic(spec)]
    return team_cache.key(parts + [content(file) for file in [*files, *held_out.inputs(options, spec)]])


def content(file: Path) -> str:
    """A hash of what a file stands for: of a model's manifest, the model's files; without what a proof measured of them."""
    if file.name not in MANIFESTS:
        return sha256(file)
    return hashlib.sha256(json.dumps(read_json(file)["files"], sort_keys=True).encode()).hexdigest()


def _training_settings(spec: dict) -> dict:
    return {key: value for key, value in spec.items() if key not in AFTER_TRAINING}


def _arithmetic(spec: dict) -> list[str]:
    return [loading.precision(spec["precision"]), *map(str, fast_kernels(spec).items())]


def _without_names(values: Any) -> Any:
    """A spec in which a reference to another result, `{"name": ..., "spec": ...}`, is only that there is one."""
    if not isinstance(values, dict):
        return values
    return {} if values.keys() == {"name", "spec"} else {key: _without_names(value) for key, value in values.items()}
