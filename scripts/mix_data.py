"""Mix datasets by weight, with a cap for each.

Reads the mixture's spec and the rows of its datasets, which are normalised and split already; writes what prepare_data.py
writes. Rows are taken by their hash, so that a row stays in the mixture when others are added.

    python scripts/mix_data.py --spec results/data/mixture/spec.json --parts results/data/snips results/data/chat \
        --output results/data/mixture
"""

import contextlib
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from posttrain.data import dataset_types, media, rows
from posttrain.data.dataset_types import DATASET_TYPES, together
from posttrain.provenance.records import write_data
from posttrain.runtime.atomic import read_json, whole_file
from posttrain.runtime.console import say
from posttrain.runtime.errors import UserError
from posttrain.runtime.script import arguments, run

SPLITS = ("validation", "train")
MARK = "mark without a file"
KINDS = ("repeated", "also held out", MARK)


def main(options) -> None:
    spec, name = read_json(options.spec), options.output.name
    folders = {folder.name: folder for folder in options.parts}
    reports = {part["name"]: read_json(folders[part["name"]] / "data.json") for part in spec["mix"]}
    dataset_type = together(report["shape"] for report in reports.values())
    if dataset_type is None:
        said = " and ".join(f"{part} is {report['shape']}" for part, report in reports.items())
        raise UserError(
            "wrong-dataset-type", f"dataset {name}", said, "mix rows of one type, or of one type with and without files"
        )
    taken = amounts(spec["mix"], {part: report["train"] for part, report in reports.items()})
    counts = write(taken, folders, dataset_type, options.output)
    media.prune(options.output, rows.media_names(options.output / f"{split}.parquet" for split in SPLITS))
    report = {
        "format": "mix",
        "recognised": None,
        "shape": dataset_type,
        "rows": counts["rows"],
        "train": counts["train"],
        "validation": counts["validation"],
        "dropped": {kind: counts[kind] for kind in KINDS if counts[kind] or kind != MARK},
        "parts": {part: {"train": counts[part, "train"], "validation": counts[part, "validation"]} for part in reports},
        "origin": None,
        "licence": None,
        "files": {file: digest for report in reports.values() for file, digest in report["files"].items()},
    }
    write_data(options.output, report)
    parts = ", ".join(f"{count['train']} of {part}" for part, count in report["parts"].items())
    say(f"{name}: {report['train']} rows to train on ({parts}), {report['validation']} held out", "summary")


def amounts(parts: list[dict], rows: dict[str, int]) -> dict[str, int]:
    """Training rows to take of each dataset: as many as the weights allow without repeating a row.

    Args:
        parts: `name`, `weight` and `limit` of each dataset.
        rows: the training rows that each has.
    """
    have = {part["name"]: min(rows[part["name"]], part["limit"] or rows[part["name"]]) for part in parts}
    if all(part["weight"] is None for part in parts):
        return have
    weights = {part["name"]: 1.0 if part["weight"] is None else part["weight"] for part in parts}
    unit = min(have[name] / weight for name, weight in weights.items())
    return {name: round(unit * weight) for name, weight in weights.items()}


def write(taken: dict[str, int], folders: dict[str, Path], dataset_type: str, output: Path) -> Counter:
    """Write the mixture; a row that another dataset holds out, or whose prompt it holds out, is not trained on."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    counts: Counter = Counter()
    seen: dict[str, str] = {}
    held_out: dict[str, str] = {}
    with contextlib.ExitStack() as stack:
        dropped = stack.enter_context(stack.enter_context(whole_file(output / "dropped.jsonl")).open("w"))
        for split in SPLITS:
            file = stack.enter_context(whole_file(output / f"{split}.parquet"))
            writer = stack.enter_context(pq.ParquetWriter(file, rows.schema(dataset_type)))
            for part, amount in taken.items():
                for batch in blocks(folders[part], split, amount):
                    kept, lines = sift(batch, split, seen, held_out, DATASET_TYPES[dataset_type].media)
                    files = {
                        name for row in kept for column in DATASET_TYPES[dataset_type].media for name in row[column]
                    }
                    media.bring_over(files, folders[part], output)
                    counts.update({"rows": len(batch), split: len(kept), (part, split): len(kept)})
                    counts.update(line["kind"] for line in lines)
                    dropped.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
                    writer.write_table(pa.Table.from_pylist(kept, schema=rows.schema(dataset_type)))
    return counts


def sift(
    batch: list[dict], split: str, seen: dict, held_out: dict, files: tuple[str, ...] = ()
) -> tuple[list[dict], list[dict]]:
    """The rows of a batch that are kept, and the lines of dropped.jsonl of the others.

    Args:
        seen: id to place of the rows that are kept; grows.
        held_out: group to place of those that are held out; grows with the split validation, which comes first.
        files: the mixture's columns of media; a row of a dataset without has none.
    """
    kept, lines = [], []
    for row in batch:
        group = rows.group(row)
        line = refuse(row, seen.get(row["id"]), held_out.get(group) if split == "train" else None)
        line = line or without_file(row, files)
        if line:
            lines.append(line)
            continue
        kept.append({column: [] for column in files} | row)
        seen[row["id"]] = row["place"]
        if split == "validation":
            held_out[group] = row["place"]
    return kept, lines


def refuse(row: dict, same: str | None, held_out: str | None) -> dict | None:
    """The line of dropped.jsonl for a row that is there already, or whose prompt is held out; None for one that is kept."""
    if held_out:
        return rows.left_out(row, "also held out", f"its prompt is held out, as {held_out}")
    return rows.left_out(row, "repeated", f"the same as {same}") if same else None


def without_file(row: dict, files: tuple[str, ...]) -> dict | None:
    """The line of dropped.jsonl for a row of a dataset without media whose text has a mark; None for others."""
    marks = [media.KINDS[column].mark for column in files if column not in row]
    found = next((mark for mark in marks if mark in dataset_types.of(row).text(row)), None)
    return rows.left_out(row, MARK, f"its text has {found}, and it is about no file") if found else None


def blocks(folder: Path, split: str, amount: int) -> Iterator[list[dict]]:
    """A dataset's rows, some at a time: all that it holds out, and `amount` of those to train on, by their hash."""
    import pyarrow.parquet as pq

    file = folder / f"{split}.parquet"
    ids = pq.read_table(file, columns=["id"])["id"].to_pylist()
    chosen = set(sorted(ids)[:amount] if split == "train" else ids)
    for batch in rows.batches(file, 2000):
        yield [row for row in rows.without_nulls(batch.to_pylist()) if row["id"] in chosen]


if __name__ == "__main__":
    parser = arguments(__doc__, spec=Path, output=Path)
    parser.add_argument("--parts", type=Path, nargs="+", required=True, help="the folders of the datasets")
    run(parser, main)
