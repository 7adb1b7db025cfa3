"""Read a dataset, normalise its rows, drop faults and duplicates, and split the rest into training and validation.

Reads the dataset's spec and its files; writes two Parquet files of normalised rows, dropped.jsonl with every row that was
left out and why, and data.json, which counts them.

    python scripts/prepare_data.py --spec results/data/snips/spec.json --cores 2 --output results/data/snips
"""

import contextlib
import json
import os
import shutil
import tempfile
from collections import Counter
from pathlib import Path

from posttrain.data import (
    duplicates,
    files,
    ingest,
    licences,
    media,
    pictures,
    rows,
    saved_datasets,
    sounds,
    splits,
    unknown_keys,
)
from posttrain.data.dataset_types import DATASET_TYPES
from posttrain.provenance.records import write_data
from posttrain.runtime.atomic import read_json
from posttrain.runtime.console import say
from posttrain.runtime.errors import UserError
from posttrain.runtime.hashes import sha256
from posttrain.runtime.script import arguments, run

SPLITS = {"train": "train.parquet", "validation": "validation.parquet"}
DROPPED = "dropped.jsonl"
SCRATCH = ".rows."
KINDS = ("fault", "repeated", "near duplicate", "also held out")
EXAMPLES = 5  # of near rows


def main(options) -> None:
    spec, name = read_json(options.spec), options.output.name
    origin, sources = find(spec, name)
    held_out = expand(spec["validation"], f"{name}, validation") if isinstance(spec["validation"], str) else []
    read, why = how(spec, sources)
    read = read._replace(system=spec.get("system"))
    has_media = bool(DATASET_TYPES[read.dataset_type].media)
    if has_media:
        refuse_storage(name)
        if spec["hub"]:  # it has the rows only
            from_hub(spec, name, [f"*.{ending}" for kind in (pictures, sounds) for ending in kind.ENDINGS.values()])
    options.output.mkdir(parents=True, exist_ok=True)
    for stale in options.output.glob(f"{SCRATCH}*"):  # left by a process that was killed; the job's lock is ours
        shutil.rmtree(stale)
    with tempfile.TemporaryDirectory(prefix=SCRATCH, dir=options.output) as scratch:
        read = read._replace(folder=Path(scratch))  # a dataset that is refused leaves no file behind
        taken = ingest.Intake(Path(scratch), read.dataset_type, spec["max_dropped"])
        apart = taken.add(ingest.parts(held_out, read, None, options.cores)) if held_out else 0
        taken.add(ingest.parts(sources, read, spec["limit"], options.cores))
        check_faults(taken, name)
        counts, found = Counter(), {}
        if taken.rows > taken.faults:
            counts, found = write(taken, apart, spec, options.cores)
        if not counts["train"]:
            files_of = ", ".join(map(str, sources[:3]))
            raise UserError(
                "no-rows", files_of, "no row is left to train on", "write more rows or a smaller `validation`"
            )
        report = {
            "format": read.name,
            "recognised": why,
            "shape": read.dataset_type,
            "rows": taken.rows,
            "train": counts["train"],
            "validation": counts["validation"],
            "dropped": {kind: counts[kind] for kind in KINDS},
            "unknown": dict(taken.unknown.most_common()),
            **found,
            "origin": spec["hub"] or spec["path"],
            "licence": licences.of_card(origin),
            "files": {str(file): sha256(file) for file in (*sources, *held_out)},
        }
        names = rows.media_names(taken.folder / file for file in SPLITS.values()) if has_media else set()
        media.bring_over(names, taken.folder, options.output)
        for file in (*SPLITS.values(), DROPPED):
            (taken.folder / file).replace(options.output / file)
    media.prune(options.output, names)
    write_data(options.output, report)
    asked = 0 if held_out else splits.held_out_count(report["train"] + report["validation"], spec["validation"])
    tell(name, report, taken.first_fault, options.output / DROPPED, asked)
    tell_what_is_read(name, report)


def tell(name: str, report: dict, first_fault: dict[str, str], file: Path, asked: int) -> None:
    """Say what became of the rows.

    Args:
        file: dropped.jsonl.
        asked: how many rows were to be held out.
    """
    held_out, near = report["validation"], report["near"]
    shows = f" ({splits.in_words(report['detectable'])})" if held_out else ""
    if asked and not held_out:
        shows = ", as nearly all share a prompt or are near each other: write a file of other rows as `validation:`"
    kinds = f"{report['shape']} from {report['format']}"
    say(f"{name}: {report['train']} rows to train on, {held_out} held out{shows}, {kinds}", "summary")
    dropped = ", ".join(f"{count} {kind}" for kind, count in report["dropped"].items() if count)
    if dropped:
        first = "; the first fault: {place}: {reason}".format_map(first_fault) if first_fault else ""
        say(f"{name}: left out: {dropped}, see {file}{first}")
    if near["same_answer"] and not near["left_out"]:
        say(
            f"{name}: {near['same_answer']} rows are {near['similarity']:.0%} like an earlier one and have its answer; they are "
            f"kept, `near_duplicates: {near['similarity']:g}` under the dataset would leave them out"
        )


def tell_what_is_read(name: str, report: dict) -> None:
    """Say which columns are read under another name, and what is not read."""
    if " is read as " in (report["recognised"] or ""):
        say(f"{name}: {report['recognised']}")
    if report["unknown"]:
        say(f"{name}: not read, with the rows that have them: {unknown_keys.in_words(report['unknown'])}")
    if advice := unknown_keys.advice(report["shape"], report["unknown"]):
        say(f"{name}: WARNING: {advice}")


def how(spec: dict, sources: list[Path]) -> tuple[ingest.Format, str | None]:
    """How the rows are read, and the sentence that says why, where the configuration does not say it."""
    images = Path(spec["image_folder"]) if spec["image_folder"] else None
    try:
        format, columns, why = ingest.recognise(sources, spec["columns"], spec["format"])
    except UserError:
        if spec["format"] is None:
            raise
        return ingest.Format(spec["format"], spec["columns"], images), None  # each row says what is wrong with it
    told = spec["format"] is None or columns != spec["columns"]
    return ingest.Format(format, columns, images), why if told else None


def find(spec: dict, name: str) -> tuple[Path, list[Path]]:
    """The folder or file that a dataset comes from, and the files of its split.

    Raises:
        UserError: there is none.
    """
    origin = from_hub(spec, name) if spec["hub"] else Path(spec["path"])
    if not spec["hub"] and (splits := saved_datasets.splits(origin)):
        if spec["split"] not in splits:
            raise UserError(
                "unknown-name",
                f"dataset {name}",
                f"{origin} has no split '{spec['split']}'",
                f"its splits are {', '.join(splits)}",
            )
        return origin, expand(str(origin / spec["split"]), name)
    if spec["hub"] or (origin.is_dir() and (origin / "README.md").is_file()):
        return origin, in_layout(origin, spec, name)
    return origin, expand(spec["path"], name)


def expand(path: str, name: str) -> list[Path]:
    """The files of rows at a path.

    Raises:
        UserError: there is none.
    """
    if splits := saved_datasets.splits(Path(path)):
        raise UserError(
            "unknown-name",
            f"dataset {name}",
            f"{path} has several splits, {', '.join(splits)}",
            f"name the folder of one, such as {path}/{splits[0]}",
        )
    found = files.expand(path)
    if not found:
        raise UserError(
            "missing-file",
            f"dataset {name}",
            f"{path} has no file of rows",
            f"write a path with {', '.join(files.SUFFIXES)}",
        )
    return found


def refuse_storage(name: str) -> None:
    """Refuse rows about files where results are in a remote storage, which keeps declared files alone.

    Raises:
        UserError: they are there.
    """
    if "POSTTRAIN_RESULTS" in os.environ:
        raise UserError(
            "unsupported-setting",
            f"dataset {name}",
            "its rows are about images or sounds, and those are not kept in a remote storage",
            "build it without --default-storage-provider",
        )


def from_hub(spec: dict, name: str, beside: list[str] | None = None) -> Path:
    """Bring a dataset's files from the hub onto this machine (from its cache, with HF_HUB_OFFLINE=1).

    Args:
        beside: patterns of the files that rows are about.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    patterns = [f"*{kind}{packed}" for kind in files.SUFFIXES for packed in ("", *files.COMPRESSED)]
    try:
        folder = snapshot_download(
            spec["hub"],
            repo_type="dataset",
            revision=spec["revision"],
            allow_patterns=[*patterns, *(beside or []), "README.md"],
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        print(error)
        raise UserError(
            "missing-file",
            f"dataset {name}",
            f"{spec['hub']} at {spec['revision']} is neither on the hub nor in its cache",
            "check the id, the network and HF_TOKEN, or run once where there is internet",
        ) from None
    return Path(folder)


def in_layout(folder: Path, spec: dict, name: str) -> list[Path]:
    """The files of a split, in a folder laid out as on the hub: by its card, or by the files' names."""
    from datasets import load_dataset_builder

    try:
        found = load_dataset_builder(str(folder.absolute()), name=spec["subset"]).config.data_files
    except Exception as error:  # whatever a mistake in the card makes `datasets` raise
        reason = " ".join(str(error).partition("Example of usage")[0].split())
        raise UserError(
            "unreadable-file", f"dataset {name}", f"{folder}: {reason}", "check its files, README.md and `subset:`"
        ) from None
    if spec["split"] not in found:
        raise UserError(
            "unknown-name",
            f"dataset {name}",
            f"{folder} has no split '{spec['split']}'",
            f"its splits are {', '.join(found)}",
        )
    sources = [folder / os.path.relpath(file, folder) for file in found[spec["split"]]]
    return list(filter(files.is_data, sources)) or expand(str(folder), name)  # where images are in the majority


def check_faults(taken: ingest.Intake, name: str) -> None:
    """Stop where more rows are faulty than the dataset allows; the log lists all that were met.

    Raises:
        UserError: with the first fault.
    """
    if taken.faults > taken.max_dropped * taken.rows:
        for line in (taken.folder / DROPPED).open(encoding="utf-8"):
            print("{place}: {reason}".format_map(json.loads(line)))
        raise UserError(
            "too-many-invalid-rows",
            taken.first_fault["place"],
            f"{taken.first_fault['reason']} ({taken.faults} of the first {taken.rows} rows of dataset {name} are faulty, more than "
            f"`max_dropped: {taken.max_dropped:g}` allows)",
        )


def write(taken: ingest.Intake, apart: int, spec: dict, cores: int) -> tuple[Counter, dict]:
    """Write the rows that are kept to their split's file and the others to dropped.jsonl.

    Args:
        apart: how many of the first rows come from a file of held-out rows; without one, a share is held out.

    Returns:
        the counts of all, and what data.json says of near rows, of the held-out prompts and of what those show.
    """
    import numpy as np
    import pyarrow.parquet as pq

    threshold = spec["near_duplicates"]
    alike = taken.alike(threshold or duplicates.NEAR, cores)
    repeats = duplicates.repeats(alike.links, alike.answers)
    original, similarity = alike.first.copy(), np.ones(len(alike.first), np.float32)
    if threshold is not None:
        original[repeats.rows], similarity[repeats.rows] = repeats.earlier, repeats.similarity
    by_file = isinstance(spec["validation"], str)
    first_held_out = np.arange(len(original)) < apart
    held_out = first_held_out if by_file else taken.split(alike, original < 0, spec["validation"])
    shown = examples(alike.links)
    places = dict.fromkeys([*original[original >= 0].tolist(), *shown.rows.tolist(), *shown.earlier.tolist()])
    counts = Counter(fault=taken.faults)
    with contextlib.ExitStack() as stack:
        schema = rows.schema(taken.dataset_type)
        writers = {
            split: stack.enter_context(pq.ParquetWriter(taken.folder / file, schema)) for split, file in SPLITS.items()
        }
        dropped = stack.enter_context((taken.folder / DROPPED).open("a", encoding="utf-8"))
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
    near = {
        "similarity": threshold or duplicates.NEAR,
        "rows": len(np.unique(alike.links.rows)),
        "same_answer": len(repeats.rows),
        "left_out": threshold is not None,
        "examples": [
            {"place": places[row], "like": places[earlier], "similarity": round(float(share), 2)}
            for row, earlier, share in zip(*(column.tolist() for column in shown), strict=True)
        ],
    }
    prompts = len(np.unique(alike.groups[held_out & (original < 0)]))
    return counts, {"near": near, "held_out_prompts": prompts, "detectable": splits.detectable(prompts)}


def examples(links: duplicates.Links) -> duplicates.Links:
    """The first near rows, each with the earlier row that it is most like."""
    import numpy as np

    order = np.lexsort((-links.similarity, links.rows))
    _, first = np.unique(links.rows[order], return_index=True)
    return links.where(order[first[:EXAMPLES]])


def repeat(row: dict, original: str, similarity: float, leak: bool) -> dict[str, str]:
    """The line of dropped.jsonl for a row that repeats the one at `original`."""
    exact = similarity == 1
    kind = "also held out" if leak else "repeated" if exact else "near duplicate"
    how = "the same as" if exact else f"{similarity:.0%} like"
    return rows.left_out(row, kind, f"{how} {original}")


if __name__ == "__main__":
    run(arguments(__doc__, spec=Path, cores=int, output=Path), main)
