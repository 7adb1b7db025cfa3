"""Turn a dataset's normalised rows into token ids, once for each base, dataset, length and choice of what is trained.

Reads the dataset's Parquet files and the base's tokenizer and stop tokens; writes train.parquet, validation.parquet and report.json.

    python scripts/tokenize_data.py --data results/data/snips --model results/bases/smollm2/model \
        --max-length 1024 --cores 2 --output results/tokens/smollm2/snips,max_length=1024
"""

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator
from functools import cache, partial
from itertools import chain
from pathlib import Path
from typing import Any

from posttrain.models.base_inspection import first_line
from posttrain.provenance.records import hashes, sealed
from posttrain.runtime.atomic import read_json, whole_file, write_json
from posttrain.runtime.console import say
from posttrain.runtime.errors import UserError
from posttrain.runtime.parallel import ordered_map
from posttrain.runtime.script import arguments, run

BLOCK_ROWS = 1000


def main(options) -> None:
    import pyarrow.parquet as pq

    dataset_type = read_json(options.data / "data.json")["shape"]
    name, *choices = options.output.name.split(",")
    settings = {
        "max_length": options.max_length,
        "assistant_turns": options.assistant_turns,
        "train_thoughts": options.train_thoughts == "true",
    }
    if "long_rows=split" in choices:
        settings["long_rows"] = "split"
    media = options.data if check_media(options, dataset_type, name) else None
    encode = partial(encoded, model=options.model, dataset_type=dataset_type, settings=settings, media=media)
    sources = {split: options.data / f"{split}.parquet" for split in ("train", "validation")}
    rows = sum(pq.read_metadata(file).num_rows for file in sources.values())
    cores = options.cores if rows > 2 * BLOCK_ROWS else 1  # a process takes as long to start as for a thousand rows
    counts: dict[str, dict] = {}
    with contextlib.ExitStack() as stack:
        files = {split: stack.enter_context(whole_file(options.output / file.name)) for split, file in sources.items()}
        writers = {
            split: stack.enter_context(pq.ParquetWriter(file, schema(dataset_type))) for split, file in files.items()
        }
        for split, table, more in ordered_map(encode, blocks(sources), cores):
            writers[split].write_table(table)
            before = counts.get(split)
            counts[split] = {key: before[key] + more[key] for key in more} if before else more
        if not counts["train"]["rows"]:
            raise UserError(
                "nothing-trained",
                f"dataset {name}",
                f"max_length {options.max_length} cuts off every trained token of all {counts['train']['dropped']} rows",
                "write a larger max_length",
            )
    where = {"media": os.path.relpath(media, options.output)} if media else {}
    report = {"shape": dataset_type} | where | settings | {split: summary(counts[split]) for split in sources}
    names = [file.name for file in sources.values()]
    report |= {"made_from": hashes(options.data, *names), "written": hashes(options.output, *names)}
    write_json(options.output / "report.json", sealed(report))
    train = report["train"]
    say(f"{name}: {train['rows']} rows, {train['tokens']} tokens, {train['trained_tokens']} of them trained", "summary")
    if train["cut"] or train["dropped"]:
        say(f"{name}: max_length {options.max_length} cuts {train['cut']} rows and drops {train['dropped']}")
    if train.get("too_long"):
        say(f"{name}: {train['too_long']} rows are dropped as their sounds are longer than the base listens at once")
    if train.get("media_cut"):
        say(
            f"{name}: {train['media_cut']} rows are dropped as max_length {options.max_length} ends before or inside their media"
        )


def check_media(options: argparse.Namespace, dataset_type: str, name: str) -> bool:
    """Whether the rows are about media.

    Raises:
        UserError: they are, and the base reads text or other media alone.
    """
    from posttrain.data.dataset_types import DATASET_TYPES
    from posttrain.models.processors import reads

    media = DATASET_TYPES[dataset_type].media
    read = reads(options.model)
    if not read.issuperset(media):
        alone = f"reads {' and '.join(sorted(read))} alone" if read else "is a model of text alone"
        raise UserError(
            "wrong-dataset-type",
            f"dataset {name}",
            f"its rows have {' and '.join(media)}, and base {options.model.parent.name} {alone}",
            "take a base that reads them, such as {source: random, family: idefics3} for images, or qwen2_audio for audios",
        )
    return bool(media)


def blocks(files: dict[str, Path]) -> Iterator[tuple[str, Any]]:
    """Each split's rows, some at a time, as Arrow has them; an empty file has one empty block."""
    import pyarrow.parquet as pq

    from posttrain.data.rows import batches

    for split, file in files.items():
        yield from ((split, batch) for batch in batches(file, BLOCK_ROWS))
        if not pq.read_metadata(file).num_rows:
            yield split, pq.read_table(file)


def encoded(
    block: tuple[str, Any], model: Path, dataset_type: str, settings: dict[str, Any], media: Path | None = None
) -> tuple[str, Any, dict]:
    """A block's split, its tokens as a table and its counts, see `tokens.tokenise`.

    Args:
        media: the folder of the dataset, where its rows have files there.

    Between processes rows go ten times as fast in Arrow's form.
    """
    from posttrain.data.rows import without_nulls
    from posttrain.data.tokens import tokenise

    split, batch = block
    loaded, ends = tokenizer(model)
    reads = reader(model, media) if media else None
    rows, counts = tokenise(
        loaded, without_nulls(batch.to_pylist()), dataset_type, stops=ends, reader=reads, **settings
    )
    return split, table(rows, schema(dataset_type)), counts


def table(rows: list[dict], schema: Any) -> Any:
    """`pa.Table.from_pylist`, whose lists of numbers go through NumPy, in a third of the time."""
    import numpy as np
    import pyarrow as pa

    columns = {}
    for field in schema:
        values = [row[field.name] for row in rows]
        if pa.types.is_list(field.type) and pa.types.is_integer(field.type.value_type):
            offsets = np.cumsum([0, *map(len, values)], dtype=np.int32)
            numbers = np.fromiter(chain.from_iterable(values), np.int32, offsets[-1])
            columns[field.name] = pa.ListArray.from_arrays(offsets, numbers)
        else:
            columns[field.name] = pa.array(values, field.type)
    return pa.table(columns, schema=schema)


@cache
def tokenizer(model: Path) -> tuple[Any, list[int]]:
    """The base's tokenizer and stop tokens, loaded once a process."""
    from posttrain.models.processors import has_processor

    if not has_processor(model):  # a tokenizer needs no torch; transformers would import it, which takes seconds
        sys.modules.setdefault("torch", None)
    from transformers import AutoTokenizer

    from posttrain.data.tokens import stops

    try:
        loaded = AutoTokenizer.from_pretrained(model, trust_remote_code=False)
    except Exception as error:  # whatever a broken file makes it raise
        raise UserError(
            "unreadable-model", str(model), f"the tokenizer cannot be loaded: {first_line(error)}"
        ) from None
    return loaded, stops(model, loaded)


@cache
def reader(model: Path, media: Path) -> Any:
    """What reads the media of rows for the base, loaded once a process."""
    from posttrain.data.media_text import Reader
    from posttrain.models.processors import processor

    return Reader(processor(model), media)


def summary(counts: dict) -> dict:
    """The counts, with quantiles instead of every row's length."""
    import numpy as np

    lengths = counts.pop("lengths") or [0]
    quantiles = np.quantile(lengths, [0.5, 0.9, 0.99, 1]).round().astype(int).tolist()
    return counts | {"lengths": dict(zip(("p50", "p90", "p99", "max"), quantiles, strict=True))}


def schema(dataset_type: str) -> Any:
    """The Parquet schema of a dataset type's tokens, the same for an empty file."""
    from posttrain.data.dataset_types import DATASET_TYPES
    from posttrain.data.rows import arrow_schema

    return arrow_schema({"id": "string", "length": "length"} | DATASET_TYPES[dataset_type].token_columns)


def parser() -> argparse.ArgumentParser:
    options = arguments(__doc__, data=Path, model=Path, max_length=int, cores=int, output=Path)
    options.add_argument("--assistant-turns", choices=["all", "last"], default="all", help="turns that are trained")
    options.add_argument("--train-thoughts", choices=["true", "false"], default="true", help="whether thoughts are")
    return options


if __name__ == "__main__":
    run(parser(), main)
