"""A sweep's table and picture."""

import json
from argparse import Namespace
from pathlib import Path

import compare_sweep
import plot_loss
from evaluate_model import write_examples
from posttrain.stage import write_json

PNG = b"\x89PNG"


def metrics(value: float) -> dict:
    return {
        name: {"value": value, "low": value - 0.5, "high": value + 0.25, "n": 9}
        for name in ("perplexity", "exact_match")
    }


def write(name: str, value: float, right: int, loss: float = 2.0) -> None:
    """A point that got the first so many of 20 questions right."""
    write_json(Path(f"results/{name}/eval.json"), {"metrics": metrics(value)})
    rows = [
        {"dataset": "sums", "id": str(i), "log_prob": -loss * 10, "tokens": 10.0, "exact_match": float(i < right)}
        for i in range(20)
    ]
    write_examples(Path(f"results/{name}/eval/examples.parquet"), rows)


def compare(points: list) -> list[list[str]]:
    compare_sweep.main(Namespace(points=json.dumps(points), table=Path("sweep/table.tsv"), plot=Path("sweep/plot.png")))
    return [line.split("\t") for line in Path("sweep/table.tsv").read_text().splitlines()]


def test_a_sweep_is_one_line_a_run_with_its_overrides_every_interval_and_verdict(in_folder):
    points = [["dpo,rank=4", {"rank": 4, "beta": 0.1}], ["dpo", {"rank": 16, "beta": 0.1}]]
    write("dpo,rank=4", 2.0, right=2)
    write("dpo", 3.0, right=18)
    header, *lines = compare(points)
    parts = ("", "_low", "_high", "_p", "_verdict")
    assert header == ["run", "rank", "beta", *(f"{m}{part}" for m in metrics(0) for part in parts)]
    assert lines == [
        ["dpo,rank=4", "4", "0.1", *["2", "1.5", "2.25", "", ""] * 2],
        ["dpo", "16", "0.1", "3", "2.5", "3.25", "1", "no evidence", "3", "2.5", "3.25", f"{4 / 2**16:.6g}", "better"],
    ]
    assert Path("sweep/plot.png").read_bytes()[:4] == PNG


def test_the_printed_table_has_a_metric_in_one_cell():
    rows = [{"run": "dpo,rank=4", "metrics": metrics(2.0), "against": {}}]
    rows.append({"run": "dpo", "metrics": metrics(3.0), "against": {"exact_match": {"p": 0.01, "verdict": "better"}}})
    assert compare_sweep.printed(rows).splitlines() == [
        "            perplexity     exact_match",
        "-" * 38,
        "dpo,rank=4  2 [1.5, 2.25]  2 [1.5, 2.25]",
        "dpo         3 [2.5, 3.25]  3 [2.5, 3.25] better",
        "",
        "Verdicts are against dpo,rank=4, corrected for their number (Holm).",
    ]


def test_what_looks_better_among_many_is_corrected_for_their_number(in_folder):
    write("dpo,rank=1", 1.0, right=2)
    write("dpo,rank=2", 1.0, right=9)  # 7 wins of 7 alone are p = 0.016
    _, _, line = compare([[f"dpo,rank={rank}", {"rank": rank}] for rank in (1, 2)])
    assert line[-2:] == ["0.03125", "better"]
    for rank in (3, 4):
        write(f"dpo,rank={rank}", 1.0, right=2)
    _, _, line, *_ = compare([[f"dpo,rank={rank}", {"rank": rank}] for rank in (1, 2, 3, 4)])
    assert line[-2:] == ["0.09375", "no evidence"]


def margins(name: str, preferred: float) -> None:
    rows = [{"dataset": "pairs", "id": str(i), "margin_prefers_chosen": preferred} for i in range(20)]
    write_examples(Path(f"results/{name}/eval/examples.parquet"), rows)


def test_the_margin_is_compared_only_where_the_parent_is_the_same(in_folder):
    margins("dpo", 0.0)
    margins("dpo,rank=2", 1.0)
    names = ("dpo", "dpo,rank=2")
    rows = [{"run": name, "overrides": {"rank": 2}} for name in names]
    assert compare_sweep.against_first(rows)[1]["preference_margin_accuracy"]["verdict"] == "better"
    rows = [{"run": name, "overrides": {"from": "sft"}} for name in names]
    assert compare_sweep.against_first(rows) == [{}, {}]


def test_the_loss_of_a_lineage_is_drawn_with_what_was_held_out(in_folder):
    lines = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.5}, {"step": 2, "eval_loss": 1.6}]
    for run in ("sft", "dpo"):
        Path(run).mkdir()
        Path(f"{run}/train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    plot_loss.main(Namespace(steps=[Path("sft/train.jsonl"), Path("dpo/train.jsonl")], output=Path("loss.png")))
    assert Path("loss.png").read_bytes()[:4] == PNG
