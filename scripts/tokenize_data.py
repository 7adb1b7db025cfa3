"""Turn a dataset's normalised rows into token ids, once for each base, dataset and length.

Reads the dataset's Parquet files and the base's tokenizer; writes train.parquet, validation.parquet and report.json.

    python scripts/tokenize_data.py --data results/data/gsm8k --model results/bases/smollm2/model \
        --max-length 1024 --output results/tokens/smollm2/gsm8k,max_length=1024
"""

import os
from pathlib import Path

from posttrain.errors import UserError
from posttrain.stage import arguments, read_json, run, say, whole_file, write_json
from posttrain.tokens import IGNORED, tokenise


def main(options) -> None:
    os.environ["USE_TORCH"] = "0"  # a tokenizer needs no torch, and importing it takes seconds
    import pyarrow as pa
    import pyarrow.parquet as pq
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(options.model)
    shape = read_json(options.data / "report.json")["format"]
    report = {"format": shape, "max_length": options.max_length}
    name = options.output.name.split(",")[0]
    for split in ("train", "validation"):
        rows = pq.read_table(options.data / f"{split}.parquet").to_pylist()
        encoded, counts = tokenise(tokenizer, rows, shape, options.max_length)
        if split == "train" and not encoded:
            raise UserError(
                f"dataset {name}: max_length {options.max_length} cuts off every trained token of all "
                f"{len(rows)} rows; write a larger max_length"
            )
        report[split] = counts
        with whole_file(options.output / f"{split}.parquet") as file:
            pq.write_table(pa.Table.from_pylist(encoded, schema=schema(shape)), file)
    write_json(options.output / "report.json", report)
    train = report["train"]
    say(f"{name}: {train['rows']} rows, {train['tokens']} tokens, {train['trained_tokens']} of them trained")
    if train["cut"] or train["dropped"]:
        say(f"{name}: max_length {options.max_length} cuts {train['cut']} rows and drops {train['dropped']}")
    if "preference" not in shape and not ends_with_stop(tokenizer, options.output):
        say(
            f"{name}: WARNING: the first row does not end with {tokenizer.eos_token}, so the model may not learn to stop"
        )


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


def ends_with_stop(tokenizer, folder: Path) -> bool:
    """Whether the last trained token of the first training row is the stop token."""
    import pyarrow.parquet as pq

    row = pq.read_table(folder / "train.parquet").slice(0, 1).to_pylist()[0]
    trained = [label for label in row["labels"] if label != IGNORED]
    return trained[-1] == tokenizer.eos_token_id


if __name__ == "__main__":
    run(arguments(__doc__, data=Path, model=Path, max_length=int, output=Path), main)
