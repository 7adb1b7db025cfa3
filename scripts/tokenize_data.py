"""Turn a dataset's normalised rows into token ids, once for each base, dataset and length.

Reads the dataset's Parquet files and the base's tokenizer; writes train.parquet, validation.parquet and report.json.

    python scripts/tokenize_data.py --data results/data/gsm8k --model results/bases/smollm2/model \
        --max-length 1024 --cores 2 --output results/tokens/smollm2/gsm8k,max_length=1024
"""

import os
import sys
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

from posttrain.errors import UserError
from posttrain.inspection import first_line
from posttrain.records import hashes, sealed
from posttrain.stage import arguments, ordered_map, read_json, run, say, whole_file, write_json

BLOCK_ROWS = 1000


def main(options) -> None:
    import pyarrow.parquet as pq

    shape = read_json(options.data / "data.json")["shape"]
    report = {"shape": shape, "max_length": options.max_length}
    name = options.output.name.split(",")[0]
    encode = partial(encoded, model=options.model, shape=shape, max_length=options.max_length)
    for split in ("train", "validation"):
        counts: dict = {}
        with (
            whole_file(options.output / f"{split}.parquet") as file,
            pq.ParquetWriter(file, schema(shape)) as writer,
        ):
            for table, more in ordered_map(encode, blocks(options.data / f"{split}.parquet"), options.cores):
                counts = {key: counts[key] + more[key] for key in more} if counts else more
                writer.write_table(table)
            if split == "train" and not counts["rows"]:
                raise UserError(
                    f"dataset {name}: max_length {options.max_length} cuts off every trained token of all "
                    f"{counts['dropped']} rows; write a larger max_length"
                )
        report[split] = summary(counts)
    files = ("train.parquet", "validation.parquet")
    report |= {"made_from": hashes(options.data, *files), "written": hashes(options.output, *files)}
    write_json(options.output / "report.json", sealed(report))
    train = report["train"]
    say(f"{name}: {train['rows']} rows, {train['tokens']} tokens, {train['trained_tokens']} of them trained")
    if train["cut"] or train["dropped"]:
        say(f"{name}: max_length {options.max_length} cuts {train['cut']} rows and drops {train['dropped']}")


def blocks(file: Path) -> Iterator[Any]:
    """The rows of a file, some at a time, as Arrow has them; an empty file has one empty block."""
    import pyarrow.parquet as pq

    from posttrain.rows import batches

    batch = None
    for batch in batches(file, BLOCK_ROWS):
        yield batch
    if batch is None:
        yield pq.read_table(file)


def encoded(batch: Any, model: Path, shape: str, max_length: int) -> tuple[Any, dict]:
    """A block's tokens as a table, see `tokens.tokenise`; between processes rows go ten times as fast in Arrow's form."""
    import pyarrow as pa

    from posttrain.rows import without_nulls
    from posttrain.tokens import tokenise

    rows, counts = tokenise(tokenizer(model), without_nulls(batch.to_pylist()), shape, max_length)
    return pa.Table.from_pylist(rows, schema=schema(shape)), counts


@cache
def tokenizer(model: Path):
    """The base's tokenizer, loaded once a process."""
    sys.modules.setdefault(
        "torch", None
    )  # a tokenizer needs none, and transformers would import it, which takes seconds
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes are the cores
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(model, trust_remote_code=False)
    except Exception as error:  # whatever a broken file makes it raise
        raise UserError(f"{model}: no tokenizer that can be loaded: {first_line(error)}") from None


def summary(counts: dict) -> dict:
    """The counts, with quantiles instead of every row's length."""
    import numpy as np

    lengths = counts.pop("lengths") or [0]
    quantiles = np.quantile(lengths, [0.5, 0.9, 0.99, 1]).round().astype(int).tolist()
    return counts | {"lengths": dict(zip(("p50", "p90", "p99", "max"), quantiles, strict=True))}


def schema(shape: str):
    """The Parquet schema of a shape's tokens, the same for an empty file."""
    import pyarrow as pa

    ids = {
        "preference": ("prompt_ids", "chosen_ids", "rejected_ids"),
        "unpaired_preference": ("prompt_ids", "completion_ids"),
    }.get(shape, ("input_ids", "labels"))
    label = [("label", pa.bool_())] if shape == "unpaired_preference" else []
    lists = [(name, pa.list_(pa.int32())) for name in ids]
    return pa.schema([("id", pa.string()), ("length", pa.int32()), *lists, *label])


if __name__ == "__main__":
    run(arguments(__doc__, data=Path, model=Path, max_length=int, cores=int, output=Path), main)
