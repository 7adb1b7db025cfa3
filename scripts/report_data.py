"""Report on a dataset, for people: what was read, kept and dropped, and what to look at before training on it.

Reads a prepared dataset, its overlap with held-out rows, what tokenizers made of it, and the licences in the context; writes
report.json and the same as a page, report.html.

    python scripts/report_data.py --data results/data/snips --overlap results/data/snips/overlap.json \
        --tokens results/tokens/smollm2/snips,max_length=1024 --context results/data/snips/context.json \
        --output results/data/snips
"""

import json
from pathlib import Path
from typing import Any

from posttrain.data import dataset_types, licences, profile, splits, unknown_keys
from posttrain.data.dataset_types import DATASET_TYPES, TURNS
from posttrain.reports import formatting, html, pictures, sounds
from posttrain.runtime.atomic import read_json, whole_file, write_json
from posttrain.runtime.console import say
from posttrain.runtime.script import arguments, run

FIRST = 5  # dropped rows of each kind that are shown
MANY_DROPPED = 0.1
MANY_CUT = 0.05
MANY_UNKNOWN = 0.001
MANY_PIECES = 0.1  # of a character: emoji and rare names are below, a script that the tokenizer never saw is above

EXTREMES = [
    ("longest", "characters", "characters", "The first to be truncated; they decide the memory needed."),
    ("shortest", "characters", "characters", "Often empty answers, refusals, or truncated rows."),
    ("strangest", "bits", "bits a byte", "By the bits that a byte takes under the byte frequencies of the whole dataset: "
     "other scripts, code, markup and numbers come first."),
]  # fmt: skip


def main(options) -> None:
    data = read_json(options.data / "data.json")
    name = options.data.name
    splits = [options.data / f"{split}.parquet" for split in ("train", "validation")]
    parts = licences.with_cards(read_json(options.context)["licences"]).values()  # of a mixture, its datasets'
    licence = " AND ".join(sorted(set(parts))) if all(parts) else None
    report = data | {
        "licence": licence,
        "card_licence": data["licence"],
        "dropped_examples": dropped_examples(options.data / "dropped.jsonl"),
        **profile.profile(splits),
        "overlap": overlaps(options.data / "train.parquet", read_json(options.overlap)),
        "tokenizers": {f"{folder.parent.name}/{folder.name}": tokens(folder) for folder in options.tokens},
    }
    if seen := pictures.summary(splits):
        report["pictures"] = seen
    if heard := sounds.summary(splits):
        report["sounds"] = heard
    report["warnings"] = [*data.get("warnings", []), *warnings(report)]
    with whole_file(options.output / "report.html") as file:
        file.write_text(page(name, report), encoding="utf-8")
    write_json(options.output / "report.json", report)
    todo = len(report["warnings"])
    say(
        f"{name}: {todo or 'no'} thing{'' if todo == 1 else 's'} to look at, see {options.output}/report.html",
        "summary",
    )


def dropped_examples(path: Path) -> dict[str, list[dict[str, str]]]:
    """Place and reason of the first rows of each kind that was dropped."""
    first: dict[str, list[dict[str, str]]] = {}
    with path.open(encoding="utf-8") as file:
        for line in map(json.loads, file):
            examples = first.setdefault(line["kind"], [])
            if len(examples) < FIRST:
                examples.append({"place": line["place"], "reason": line["reason"]})
    return first


def overlaps(train: Path, measured: dict[str, Any]) -> dict[str, Any]:
    """The training rows' overlap with each set of held-out rows, its examples with the text of both."""
    found = {name: result for name, result in measured.items() if result["rows"]}
    texts = beginnings(train, {example["train_id"] for result in found.values() for example in result["examples"]})
    for result in found.values():
        result["examples"] = [example | {"train_text": texts[example["train_id"]]} for example in result["examples"]]
    return found


def beginnings(path: Path, ids: set[str]) -> dict[str, str]:
    """How the rows of these ids begin."""
    import pyarrow as pa
    import pyarrow.compute as pc

    wanted = pa.array(sorted(ids), pa.string())
    found = {}
    for batch in profile.batches([path], ("id", "text", *TURNS)) if ids else ():
        for row in batch.filter(pc.is_in(batch["id"], wanted)).to_pylist():
            found[row["id"]] = dataset_types.of(row).text(row)[: profile.BEGINNING]
    return found


def tokens(folder: Path) -> dict[str, Any]:
    """A tokenizer's report with the shares of what it cuts, drops, does not know and takes to pieces."""
    report = {"base": folder.parent.name} | read_json(folder / "report.json")
    for split in ("train", "validation"):
        counts = report[split]
        of = counts["of"] = counts["rows"] + counts["dropped"]
        shares = {key: share(counts[key], of) for key in ("cut", "dropped")}
        counts["shares"] = shares | {key: share(counts[key], counts["tokens"]) for key in ("unknown", "fallback")}
    return report


def share(count: int, of: int) -> float:
    """A share for people, 0 of nothing."""
    return round(count / max(1, of), 5)


# ---- what to look at first


def warnings(report: dict[str, Any]) -> list[str]:
    """What a person should look at before training on the dataset, in sentences; the worst first."""
    return [
        *_overlap_warnings(report["overlap"]),
        *_row_warnings(report),
        *(warning for tokens in report["tokenizers"].values() for warning in _token_warnings(tokens)),
        *_licence_warnings(report["licence"], report["card_licence"]),
    ]


def _overlap_warnings(overlaps: dict[str, Any]) -> list[str]:
    return [
        f"{found['shared']:,} of the {formatting.rows(found['rows'])} of {held_out} are also in the training rows, "
        f"{found['exact']:,} of them identical. Scores on them measure memorisation."
        for held_out, found in overlaps.items()
        if found["shared"]
    ]


def _row_warnings(report: dict[str, Any]) -> list[str]:
    warnings = []
    leaked, dropped = report["answer_in_prompt"], sum(report["dropped"].values())
    if leaked["rows"]:
        warnings.append(
            f"In {formatting.rows(leaked['rows'])} the prompt contains the answer word for word, first in {leaked['first']}: "
            "unless the task is to copy, the model learns to look it up."
        )
    if dropped >= MANY_DROPPED * report["rows"] > 0:
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in report["dropped"].items() if count)
        warnings.append(f"Left out: {dropped:,} of {formatting.rows(report['rows'])} ({kinds}), see dropped.jsonl.")
    near = report.get("near")
    if near and not near["left_out"] and near["same_answer"] >= MANY_DROPPED * report["rows"] > 0:
        warnings.append(
            f"{near['same_answer']:,} of {formatting.rows(report['rows'])} are {formatting.percent(near['similarity'])} like an "
            f"earlier one and have its answer; near_duplicates: {near['similarity']:g} under the dataset leaves them out."
        )
    if report["validation"] and report.get("detectable", 0) is None:
        warnings.append(f"Held out: {formatting.rows(report['validation'])}, {splits.in_words(None)}.")
    if not report["validation"]:
        warnings.append(
            "No rows are held out, so overfitting cannot be detected: set a larger validation share for the dataset, or a file of "
            "rows."
        )
    if DATASET_TYPES[report["shape"]].turns and "user" not in report["lengths"]["characters"]:
        warnings.append("There is no user turn: check that columns names the prompt.")
    if advice := unknown_keys.advice(report["shape"], report.get("unknown", {})):
        warnings.append(f"{advice[0].upper()}{advice[1:]}.")
    labels = report["labels"]
    if labels and not all(labels.values()):
        kind = "desired" if labels["true"] else "undesired"
        warnings.append(f"All completions are {kind}: unpaired preferences need desired and undesired ones.")
    return warnings


def _token_warnings(tokens: dict[str, Any]) -> list[str]:
    train, base = tokens["train"], tokens["base"]
    shares = train["shares"]
    warnings = []
    if train["dropped"] or shares["cut"] >= MANY_CUT:
        warnings.append(
            f"Base {base}: max_length {tokens['max_length']:,} truncates {train['cut']:,} of {formatting.rows(train['of'])} and "
            f"leaves out {train['dropped']:,} without trained tokens; the longest has {train['lengths']['max']:,} tokens."
        )
    if shares["unknown"] >= MANY_UNKNOWN:
        warnings.append(
            f"Base {base}: {formatting.percent(shares['unknown'])} of the tokens are unknown to its tokenizer."
        )
    if shares["fallback"] >= MANY_PIECES:
        warnings.append(
            f"Base {base}: {formatting.percent(shares['fallback'])} of the tokens are pieces of characters: its tokenizer "
            "and probably the base itself have hardly seen this script."
        )
    return warnings


def _licence_warnings(licence: str | None, card: str | None) -> list[str]:
    if licence is None:
        return ["The licence is unknown: look it up and write it in the configuration."]
    if not licences.is_known(licence):
        return [f"The terms of the licence “{licence}” are unknown to posttrain: check whether it allows your use."]
    if card and licences.normalise(card) != licences.normalise(licence):
        return [f"The configuration gives the licence {licence}, the dataset card {card}: one of them is wrong."]
    return []


def page(name: str, report: dict[str, Any]) -> str:
    """The report as a page."""
    kept = [("for training", report["train"]), ("held out", report["validation"])]
    rows = [*kept, *((f"left out: {kind}", count) for kind, count in report["dropped"].items() if count)]
    return html.render(
        "data.html",
        name=name,
        report=report,
        rows=rows,
        shown=splits.in_words(report["detectable"]) if report.get("detectable") else "",
        extremes=EXTREMES,
        limit=profile.BEGINNING - 1,  # a text of BEGINNING characters was cut there
    )


if __name__ == "__main__":
    parser = arguments(__doc__, data=Path, overlap=Path, context=Path, output=Path)
    parser.add_argument("--tokens", type=Path, nargs="*", default=[], help="folders that tokenize_data wrote")
    run(parser, main)
