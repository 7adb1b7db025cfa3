"""Put a model's completions in the place of a dataset's own (sequence-level distillation, Kim and Rush 2016).

Reads the rows and the model's predictions of them; writes what prepare_data.py writes, with rows of type messages. Training rows get the
model's completion; held-out rows keep their own, so that every model is measured on the same. A row whose completion was truncated, is
empty or could not be generated is left out.

    python scripts/generate_data.py --spec results/data/snips_by_sft/spec.json --rows results/data/snips \
        --answers results/sft_lora/predictions/snips.jsonl --output results/data/snips_by_sft
"""

import json
from collections import Counter
from pathlib import Path

from posttrain.data import dataset_types, rows
from posttrain.provenance.records import write_data
from posttrain.runtime.atomic import read_json, whole_file
from posttrain.runtime.console import say
from posttrain.runtime.errors import UserError
from posttrain.runtime.script import arguments, run

TYPE = "messages"
FAULTS = {
    "no answer": "it was not completed",
    "truncated": "its completion was truncated",
    "empty": "its completion is empty",
}


def main(options) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    name, source = options.output.name, read_json(options.rows / "data.json")
    answers = read_answers(options.answers)
    counts, lines, kept = Counter(), [], {}
    for row in rows.read(options.rows / "train.parquet"):
        fault = fault_of(answers.get(row["id"]))
        if fault:
            counts[fault] += 1
            lines.append(rows.left_out(row, fault, FAULTS[fault]))
            continue
        made = conversation(row, [{"role": "assistant", "content": answers[row["id"]]["completion"].strip()}])
        kept.setdefault(made["id"], made)
    if not kept:
        raise UserError(
            "no-rows",
            f"dataset {name}",
            f"no row of {options.rows.name} has a whole completion",
            "raise max_new_tokens",
        )
    own = [row for row in rows.read(options.rows / "validation.parquet") if dataset_types.of(row).reference]
    held_out = [conversation(row, row[dataset_types.of(row).reference][-1:]) for row in own]
    for split, found in (("train", kept.values()), ("validation", held_out)):
        with whole_file(options.output / f"{split}.parquet") as file:
            pq.write_table(pa.Table.from_pylist(list(found), schema=rows.schema(TYPE)), file)
    with whole_file(options.output / "dropped.jsonl") as file:
        file.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    report = {key: source[key] for key in ("recognised", "origin", "licence", "files")}
    report |= {"format": "generated", "shape": TYPE, "train": len(kept), "validation": len(held_out)}
    report |= {"dropped": dict(counts), "rows": len(kept) + len(held_out) + len(lines)}
    write_data(options.output, report)
    left = ", ".join(f"{count}: {FAULTS[fault]}" for fault, count in counts.items())
    say(
        f"{name}: {len(kept)} completions by {options.answers.parents[1].name}{f'; left out {left}' if left else ''}",
        "summary",
    )


def read_answers(file: Path) -> dict[str, dict]:
    """The lines of a file of predictions by the ids of their rows."""
    with file.open(encoding="utf-8") as lines:
        return {line["id"]: line for line in map(json.loads, lines) if "id" in line}


def fault_of(answer: dict | None) -> str | None:
    """Why a completion is not trained on; None where it is."""
    if answer is None or "error" in answer:
        return "no answer"
    if answer["finish"] != "stop":
        return "truncated"
    return None if answer["completion"].strip() else "empty"


def conversation(row: dict, completion: list[dict]) -> dict:
    """A row of messages: what comes before a row's completion, and a completion."""
    turns = [*dataset_types.of(row).prompt(row), *completion]
    tools = {"tools": row["tools"]} if row.get("tools") else {}
    return rows.made(row["place"], {"messages": turns} | tools)


if __name__ == "__main__":
    run(arguments(__doc__, spec=Path, rows=Path, answers=Path, output=Path), main)
