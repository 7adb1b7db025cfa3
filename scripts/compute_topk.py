"""A teacher's most likely tokens at every trained position of a dataset, once for all runs that learn from it.

Reads a model and a dataset's tokens for its base; writes train.parquet and validation.parquet, row by row as the tokens:
`fingerprint` (of the row's tokens and labels), `ids` and `log_probs` (k for each label, flat), and `rest`, the logarithm of the
probability that all other tokens have together. The folder's name has k, a precision and a temperature that are not at their default.

    python scripts/compute_topk.py --model results/sft_lora/merged \
        --tokens results/tokens/smollm2/snips,max_length=1024 \
        --output results/sft_lora/topk/snips,max_length=1024,k=64
"""

from pathlib import Path

from posttrain.runtime import processes
from posttrain.runtime.atomic import whole_file
from posttrain.runtime.console import Clock, progress, say
from posttrain.runtime.script import arguments, run

BATCH_TOKENS = 1024
SPLITS = ("train", "validation")


def main(options) -> None:
    import pyarrow.parquet as pq

    from posttrain.inference.scoring import autocast
    from posttrain.models import loading
    from posttrain.training.inputs import check_dataset_type

    dataset, settings = read_name(options.output.name)
    check_dataset_type(options.tokens / "report.json", "distill", dataset)
    name, clock = options.output.parent.parent.name, Clock()
    processes.join()
    precision = loading.precision(settings.get("precision", "auto"))
    model, pad = loading.for_inference(options.model, precision), loading.tokenizer(options.model).pad_token_id
    for split in SPLITS:
        rows = pq.read_table(options.tokens / f"{split}.parquet").to_pylist()
        with autocast(model):
            table = scored(
                model, rows, int(settings["k"]), float(settings.get("temperature", 1)), pad, f"{name}: {split}"
            )
        if processes.is_main():
            with whole_file(options.output / f"{split}.parquet") as file:
                pq.write_table(table, file, compression="zstd")
    if processes.is_main():
        size = sum((options.output / f"{split}.parquet").stat().st_size for split in SPLITS)
        say(
            f"{name}: {settings['k']} most likely tokens at each trained position of {dataset} in {clock.seconds():.0f} s, "
            f"{size / 2**20:.1f} MiB",
            "summary",
        )


def read_name(name: str) -> tuple[str, dict[str, str]]:
    """The dataset and the settings that the folder is named for.

    >>> read_name("snips,max_length=1024,k=64,fp32")
    ('snips', {'max_length': '1024', 'k': '64', 'precision': 'fp32'})
    """
    dataset, *parts = name.split(",")
    return dataset, dict(part.split("=") if "=" in part else ("precision", part) for part in parts)


def scored(model, rows: list[dict], count: int, temperature: float, pad: int, said: str):
    """The table of some rows."""
    import numpy as np
    import pyarrow as pa
    import torch

    from posttrain.inference import distributions
    from posttrain.inference.scoring import by_length
    from posttrain.inference.sharing import shared

    def of_batch(places: list[int]) -> list[tuple]:
        batch = distributions.pad([rows[i] for i in places], pad)
        counts = (batch["labels"][:, 1:] != distributions.IGNORED).sum(1).tolist()
        with torch.no_grad():
            batch = {key: value.to(model.device) for key, value in batch.items()}
            found = distributions.top(distributions.logits(model, batch), count, temperature)
        parts = [part.cpu().split(counts) for part in found]
        progress(f"{said}: up to row {max(places) + 1} of {len(rows)}", max(places) + 1, len(rows))
        return [tuple(part.numpy().reshape(-1) for part in row) for row in zip(*parts, strict=True)]

    batches = list(by_length([row["input_ids"] for row in rows], BATCH_TOKENS))
    results = {}
    for places, found in zip(batches, shared(of_batch, batches), strict=True):
        results |= zip(places, found, strict=True)
    ordered = [results[i] for i in range(len(rows))]
    names, kinds = ("ids", "log_probs", "rest"), (pa.int32(), pa.float32(), pa.float32())
    columns = {"fingerprint": pa.array([distributions.fingerprint(row) for row in rows], pa.string())}
    for place, (column, kind) in enumerate(zip(names, kinds, strict=True)):
        values = [row[place] for row in ordered]
        offsets = np.cumsum([0, *map(len, values)], dtype=np.int64)
        flat = np.concatenate(values) if values else np.empty(0)
        columns[column] = pa.LargeListArray.from_arrays(offsets, pa.array(flat, kind, safe=False))
    return pa.table(columns)


if __name__ == "__main__":
    run(arguments(__doc__, model=Path, tokens=Path, output=Path), main, replicas=True)
