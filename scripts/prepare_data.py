"""Read a dataset, normalise its rows and split them into training and validation.

Reads the dataset's spec and its files; writes two Parquet files of normalised rows and a report of what was read.

    python scripts/prepare_data.py --spec results/data/gsm8k/spec.json --output results/data/gsm8k
"""

from collections import Counter
from pathlib import Path

from posttrain.errors import UserError
from posttrain.rows import Row, group, read_file
from posttrain.stage import arguments, read_json, run, say, sha256, whole_file, write_json


def main(options) -> None:
    spec = read_json(options.spec)
    source = Path(spec["path"]) if spec["path"] else hub_file(spec)
    shape, rows = read_file(source, spec["columns"], spec["format"])
    rows = rows[: spec["limit"]]
    if isinstance(spec["validation"], str):
        held_out = Path(spec["validation"])
        _, validation = read_file(held_out, spec["columns"], shape)
        train = rows
    else:
        train, validation = split(rows, spec["validation"])
    train, validation, repeated, shared = without_repeats(train, validation)
    if not train:
        raise UserError(f"{source}: no row is left to train on; write more rows or a smaller `validation`")
    write_parquet(options.output / "train.parquet", train)
    write_parquet(options.output / "validation.parquet", validation, like=train)
    report = {
        "format": shape,
        "rows": len(rows),
        "train": len(train),
        "validation": len(validation),
        "dropped": {"repeated": repeated, "in_train_and_validation": shared},
        "files": {str(source): sha256(source)},
    }
    if isinstance(spec["validation"], str):
        report["files"][spec["validation"]] = sha256(held_out)
    write_json(options.output / "report.json", report)
    name = options.output.name
    say(f"{name}: {len(train)} rows to train on, {len(validation)} held out, shape {shape}")
    if repeated or shared:
        say(f"{name}: dropped {repeated} repeated rows, and {shared} training rows that are also held out")


def hub_file(spec: dict) -> Path:
    """Bring a hub dataset's split onto this machine as one Parquet file (from the cache when offline)."""
    from datasets import load_dataset

    try:
        dataset = load_dataset(spec["hub"], revision=spec["revision"], split=spec["split"])
    except (OSError, ValueError) as error:
        raise UserError(
            f"dataset {spec['hub']}: cannot be had from the hub or its cache: {error}".splitlines()[0]
        ) from None
    path = Path("results/data") / f".{spec['hub'].replace('/', '--')}-{spec['split']}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.to_parquet(path)
    return path


def split(rows: list[Row], share: float) -> tuple[list[Row], list[Row]]:
    """Split by a hash of each row's prompt: a row never moves when others are added or removed."""
    train, validation = [], []
    for row in rows:
        held_out = int(group(row)[:8], 16) / 2**32 < share
        (validation if held_out else train).append(row)
    return train, validation


def without_repeats(train: list[Row], validation: list[Row]) -> tuple[list[Row], list[Row], int, int]:
    """Drop exact repeats, and training rows that are held out as well; returns the rows and both counts."""
    counts = Counter(row["id"] for row in train + validation)
    held_out = {row["id"]: row for row in validation}
    kept = {row["id"]: row for row in train if row["id"] not in held_out}
    shared = len({row["id"] for row in train} & held_out.keys())
    return list(kept.values()), list(held_out.values()), counts.total() - len(counts) - shared, shared


def write_parquet(path: Path, rows: list[Row], like: list[Row] | None = None) -> None:
    """Write rows; `like` gives the schema, which no row may be left to infer."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.Table.from_pylist(rows, schema=pa.Table.from_pylist(like).schema if like else None)
    with whole_file(path) as file:
        pq.write_table(table, file)


if __name__ == "__main__":
    run(arguments(__doc__, spec=Path, output=Path), main)
