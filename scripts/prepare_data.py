"""Read a dataset, normalise its rows, drop faults and duplicates, and split the rest into training and validation.

Reads the dataset's spec and its files; writes two Parquet files of normalised rows, dropped.jsonl with every row that was
left out and why, and data.json, which counts them.

    python scripts/prepare_data.py --spec results/data/gsm8k/spec.json --cores 2 --output results/data/gsm8k
"""

import contextlib
import json
import tempfile
from collections import Counter
from pathlib import Path

from posttrain import files, intake, licences, rows
from posttrain.errors import UserError
from posttrain.stage import arguments, read_json, run, say, sha256, write_json

SPLITS = {"train": "train.parquet", "validation": "validation.parquet"}
DROPPED = "dropped.jsonl"
KINDS = ("fault", "repeated", "near duplicate", "also held out")


def main(options) -> None:
    spec, name = read_json(options.spec), options.output.name
    origin, sources = find(spec, name)
    held_out = files.expand(spec["validation"]) if isinstance(spec["validation"], str) else []
    format, why = intake.recognise(sources, spec["columns"]) if spec["format"] is None else (spec["format"], None)
    read = intake.Format(format, spec["columns"], Path(spec["image_folder"]) if spec["image_folder"] else None)
    options.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".rows.", dir=options.output) as scratch:
        taken = intake.Intake(Path(scratch), read.shape)
        apart = taken.add(intake.parts(held_out, read, None, options.cores)) if held_out else 0
        taken.add(intake.parts(sources, read, spec["limit"], options.cores))
        check_faults(taken, spec, name)
        counts = write(taken, apart, spec)
        if not counts["train"]:
            files_of = ", ".join(map(str, sources[:3]))
            raise UserError(f"{files_of}: no row is left to train on; write more rows or a smaller `validation`")
        for file in (*SPLITS.values(), DROPPED):
            (taken.folder / file).replace(options.output / file)
    report = {
        "format": format,
        "recognised": why,
        "shape": read.shape,
        "rows": taken.rows,
        "train": counts["train"],
        "validation": counts["validation"],
        "dropped": {kind: counts[kind] for kind in KINDS},
        "origin": spec["hub"] or spec["path"],
        "licence": licences.of_card(origin),
        "files": {str(file): sha256(file) for file in (*sources, *held_out)},
    }
    write_json(options.output / "data.json", report)
    say(f"{name}: {counts['train']} rows to train on, {counts['validation']} held out, {read.shape} from {format}")
    dropped = ", ".join(f"{count} {kind}" for kind, count in report["dropped"].items() if count)
    if dropped:
        first = f"; the first fault: {taken.first_fault}" if taken.faults else ""
        say(f"{name}: left out: {dropped}, see {options.output}/{DROPPED}{first}")


def find(spec: dict, name: str) -> tuple[Path, list[Path]]:
    """The folder or file that a dataset comes from, and the files of its split.

    Raises:
        UserError: there is none.
    """
    origin = from_hub(spec, name) if spec["hub"] else Path(spec["path"])
    if origin.is_dir() and (origin / "README.md").exists():
        return origin, in_layout(origin, spec, name)
    found = files.expand(str(origin))
    if not found:
        raise UserError(f"dataset {name}: {origin} has no file of rows; write a path with {', '.join(files.SUFFIXES)}")
    return origin, found


def from_hub(spec: dict, name: str) -> Path:
    """Bring a dataset's files from the hub onto this machine (from its cache, with HF_HUB_OFFLINE=1)."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    patterns = [f"*{kind}{packed}" for kind in files.SUFFIXES for packed in ("", *files.COMPRESSED)]
    try:
        folder = snapshot_download(
            spec["hub"], repo_type="dataset", revision=spec["revision"], allow_patterns=[*patterns, "README.md"]
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        print(error)
        raise UserError(
            f"dataset {name}: {spec['hub']} at {spec['revision']} is neither on the hub nor in its cache; "
            "check the id, the network and HF_TOKEN, or run once where there is internet"
        ) from None
    return Path(folder)


def in_layout(folder: Path, spec: dict, name: str) -> list[Path]:
    """The files of a split, in a folder laid out as on the hub: by its card, or by the files' names."""
    from datasets import load_dataset_builder
    from datasets.exceptions import DataFilesNotFoundError, DatasetNotFoundError

    try:
        found = load_dataset_builder(str(folder), name=spec["subset"]).config.data_files
    except (ValueError, DatasetNotFoundError, DataFilesNotFoundError, OSError) as error:
        raise UserError(f"dataset {name}: {folder}: {str(error).splitlines()[0]}") from None
    if spec["split"] not in found:
        raise UserError(f"dataset {name}: {folder} has no split '{spec['split']}'; its splits are {', '.join(found)}")
    return [Path(file) for file in found[spec["split"]]]


def check_faults(taken: intake.Intake, spec: dict, name: str) -> None:
    """Stop where more rows are faulty than the dataset allows; the log lists all that were met.

    Raises:
        UserError: with the first fault.
    """
    if taken.faults > spec["max_dropped"] * taken.rows:
        for line in (taken.folder / DROPPED).open():
            print("{place}: {reason}".format_map(json.loads(line)))
        raise UserError(
            f"{taken.first_fault} ({taken.faults} of the first {taken.rows} rows of dataset {name} are faulty, more than "
            f"`max_dropped: {spec['max_dropped']:g}` allows)"
        )


def write(taken: intake.Intake, apart: int, spec: dict) -> Counter:
    """Write the rows that are kept to their split's file and the others to dropped.jsonl; returns the counts of all.

    Args:
        apart: how many of the first rows come from a file of held-out rows; with none, a share is held out.
    """
    import numpy as np
    import pyarrow.parquet as pq

    original, similarity = taken.originals(spec["near_duplicates"])
    held_out = np.arange(len(original)) < apart if apart else taken.below(spec["validation"])
    places = dict.fromkeys(original[original >= 0].tolist())
    counts = Counter(fault=taken.faults)
    with contextlib.ExitStack() as stack:
        schema = rows.schema(taken.shape)
        writers = {split: stack.enter_context(pq.ParquetWriter(taken.folder / file, schema)) for split, file in SPLITS.items()}
        dropped = stack.enter_context((taken.folder / DROPPED).open("a"))
        for start, table in taken.tables():
            here = np.arange(start, start + len(table))
            places |= {i: table["place"][i - start].as_py() for i in places.keys() & set(here.tolist())}
            kept = original[here] < 0
            for split, mask in (("train", kept & ~held_out[here]), ("validation", kept & held_out[here])):
                writers[split].write_table(table.filter(mask))
                counts[split] += int(mask.sum())
            for i, row in zip(here[~kept], rows.without_nulls(table.filter(~kept).to_pylist()), strict=True):
                line = repeat(row, places[original[i]], similarity[i], bool(apart and original[i] < apart <= i))
                counts[line["kind"]] += 1
                dropped.write(json.dumps(line, ensure_ascii=False) + "\n")
    return counts


def repeat(row: dict, original: str, similarity: float, leak: bool) -> dict[str, str]:
    """The line of dropped.jsonl for a row that repeats the one at `original`."""
    exact = similarity == 1
    kind = "also held out" if leak else "repeated" if exact else "near duplicate"
    how = "the same as" if exact else f"{similarity:.0%} like"
    content = {key: value for key, value in row.items() if key not in ("id", "place")}
    return {"place": row["place"], "kind": kind, "reason": f"{how} {original}", "row": json.dumps(content, ensure_ascii=False)}


if __name__ == "__main__":
    run(arguments(__doc__, spec=Path, cores=int, output=Path), main)
