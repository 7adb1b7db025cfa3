"""A sweep's table and picture."""

import json
from argparse import Namespace
from pathlib import Path

import compare_sweep
import plot_loss
from posttrain.stage import write_json

PNG = b"\x89PNG"


def metrics(value: float) -> dict:
    return {
        name: {"value": value, "low": value - 0.5, "high": value + 0.25, "n": 9}
        for name in ("perplexity", "exact_match")
    }


def test_a_sweep_is_one_line_a_run_with_its_overrides_and_every_interval(in_folder):
    points = [["dpo,rank=4", {"rank": 4, "beta": 0.1}], ["dpo", {"rank": 16, "beta": 0.1}]]
    for i, (name, _) in enumerate(points):
        write_json(Path(f"results/{name}/eval.json"), {"metrics": metrics(2.0 + i)})
    compare_sweep.main(Namespace(points=json.dumps(points), table=Path("sweep/table.tsv"), plot=Path("sweep/plot.png")))
    header, *lines = [line.split("\t") for line in Path("sweep/table.tsv").read_text().splitlines()]
    assert header == ["run", "rank", "beta", *(f"{m}{part}" for m in metrics(0) for part in ("", "_low", "_high"))]
    assert lines == [
        ["dpo,rank=4", "4", "0.1", *["2", "1.5", "2.25"] * 2],
        ["dpo", "16", "0.1", *["3", "2.5", "3.25"] * 2],
    ]
    assert Path("sweep/plot.png").read_bytes()[:4] == PNG


def test_the_loss_of_a_lineage_is_drawn_with_what_was_held_out(in_folder):
    lines = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.5}, {"step": 2, "eval_loss": 1.6}]
    for run in ("sft", "dpo"):
        Path(run).mkdir()
        Path(f"{run}/train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    plot_loss.main(Namespace(steps=[Path("sft/train.jsonl"), Path("dpo/train.jsonl")], output=Path("loss.png")))
    assert Path("loss.png").read_bytes()[:4] == PNG
