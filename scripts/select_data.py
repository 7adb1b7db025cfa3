"""Select the easy or the hard part of a preference dataset (Gou and Nguyen 2024, mixed preference optimisation).

A pair is easy where a reward model scores the chosen answer above the rejected one by more than the margin. Reads the
dataset's spec, the reward model, the rows to select from and their tokens; writes what prepare_data.py writes, with the
margins' distribution in data.json.

    python scripts/select_data.py --spec results/data/easy/spec.json --model results/reward_lora/merged \
        --rows results/data/snips_pairs --tokens results/tokens/smollm2/snips_pairs,max_length=1024 \
        --output results/data/easy
"""

import json
from pathlib import Path

from posttrain.data.rows import left_out, without_nulls
from posttrain.provenance.records import write_data
from posttrain.runtime import processes
from posttrain.runtime.atomic import read_json, whole_file
from posttrain.runtime.console import say
from posttrain.runtime.errors import UserError
from posttrain.runtime.script import arguments, run

SPLITS = ("train", "validation")
UNSCORED = "max_length of the reward run leaves nothing of its answers to score"


def main(options) -> None:
    import numpy as np
    import pyarrow.parquet as pq

    from posttrain.models import loading

    spec, name = read_json(options.spec), options.output.name
    source = read_json(options.rows / "data.json")
    if source["shape"] != "preference":
        raise UserError(
            "wrong-dataset-type",
            f"dataset {name}",
            f"select needs rows of type preference, and these are {source['shape']}",
        )
    processes.join()
    model = loading.load(options.model, apart=True).eval()  # bf16 would round away what it has learnt
    margins_of = {split: score(model, options.tokens / f"{split}.parquet") for split in SPLITS}
    if not processes.is_main():
        return
    report = {key: source[key] for key in ("format", "recognised", "shape", "origin", "licence", "files")}
    report |= {"part": spec["part"], "margin": spec["margin"]}
    lines: list[dict] = []
    for split, margins in margins_of.items():
        table = pq.read_table(options.rows / f"{split}.parquet")
        scored = [id in margins for id in table["id"].to_pylist()]
        easy = [margins.get(id, -np.inf) > spec["margin"] for id in table["id"].to_pylist()]
        kept = [known and flag == (spec["part"] == "easy") for known, flag in zip(scored, easy, strict=True)]
        quartiles = [round(float(q), 4) for q in np.quantile(list(margins.values()) or [0.0], [0, 0.25, 0.5, 0.75, 1])]
        report[split] = sum(kept)
        report[f"{split}_margins"] = quartiles
        unscored = without_nulls(table.filter([not known for known in scored]).to_pylist())
        lines += [left_out(row, "without tokens", UNSCORED) for row in unscored]
        if split == "train" and not any(kept):
            raise UserError(
                "no-rows",
                f"dataset {name}",
                f"no row is {spec['part']} at margin {spec['margin']:g}",
                f"the margins' quartiles are {', '.join(f'{q:.3g}' for q in quartiles)}, write a margin between them",
            )
        with whole_file(options.output / f"{split}.parquet") as file:
            pq.write_table(table.filter(kept), file)
    with whole_file(options.output / "dropped.jsonl") as file:
        file.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    report["dropped"] = {"without tokens": len(lines)}
    report["rows"] = report["train"] + report["validation"] + len(lines)
    write_data(options.output, report)
    quartiles = ", ".join(f"{q:.3g}" for q in report["train_margins"])
    say(
        f"{name}: {report['train']} rows are {spec['part']} at margin {spec['margin']:g}; quartiles: {quartiles}",
        "summary",
    )


def score(model, tokens: Path) -> dict[str, float]:
    """Row id to score(chosen) - score(rejected)."""
    import pyarrow.parquet as pq

    from posttrain.inference import scoring
    from posttrain.inference.reward_models import BATCH_TOKENS
    from posttrain.inference.sharing import shared

    rows = pq.read_table(tokens).to_pylist()
    pairs = zip(rows, scoring.pair_rewards(model, rows, BATCH_TOKENS, shared), strict=True)
    return {row["id"]: chosen - rejected for row, (chosen, rejected) in pairs}


if __name__ == "__main__":
    run(arguments(__doc__, spec=Path, model=Path, rows=Path, tokens=Path, output=Path), main, replicas=True)
