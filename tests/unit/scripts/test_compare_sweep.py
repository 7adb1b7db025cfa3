"""A sweep's table, figures, page and what the terminal shows."""

import json
from argparse import Namespace
from collections import defaultdict
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import compare_sweep
import plot_loss
from posttrain.evaluation.example_scores import clusters, columns, measured
from posttrain.metrics.statistics import summary
from posttrain.reports import sweep_figures, sweep_page, sweep_results, work
from posttrain.reports.sweeps import Sweep, settings
from posttrain.runtime.atomic import write_json

PNG = b"\x89PNG"


def write(
    name: str, right: int, loss: float = 2.0, tokens: float = 60.0, parent: str = "sft", n: int = 20, **more
) -> None:
    """A point that got the first so many of n questions right, with more columns, trained on so many million tokens."""
    log_prob = [-(loss + i % 4 / 10) * 10 for i in range(n)]
    rows = [
        {
            "suite": "",
            "dataset": "sums",
            "id": str(i),
            "log_prob": log_prob[i],
            "tokens": 10.0,
            "exact_match": i < right,
        }
        for i in range(n)
    ]
    rows = [row | {"exact_match": float(row["exact_match"])} | more for row in rows]
    folder = Path(f"results/{name}")
    (folder / "eval").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), folder / "eval/examples.parquet")
    found = {metric: summary(how, columns(how, having), clusters(having)) for metric, how, having in measured(rows)}
    write_json(folder / "eval.json", {"metrics": found})
    train = {"seconds": 60.0, "memory_gib": 1.5, "steps": 10, "parameters": 1000, "trainable_parameters": 500}
    write_json(folder / "train.json", train)
    lines = [{"step": 1, "loss": 1.0, "num_tokens": 1e6}, {"step": 2, "loss": 1.0, "num_tokens": tokens * 1e6}]
    (folder / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    write_json(folder / "spec.json", {"from": {"name": parent}, "batch_size": 8})


def compare(points: list) -> Path:
    """Compare the points; returns the folder with what is made of them."""
    folder = Path("results/sweeps/s")
    write_json(folder / "context.json", {"points": points})
    compare_sweep.main(Namespace(context=folder / "context.json", output=folder))
    return folder


def html(points: list) -> str:
    """The page, without its figures."""
    return sweep_page.page(sweep_results.read("s", points), defaultdict(str), [])


def table(points: list) -> list[dict[str, str]]:
    """The lines of the table."""
    compare_sweep.write_table(Path("table.tsv"), sweep_results.read("s", points))
    header, *lines = [line.split("\t") for line in Path("table.tsv").read_text().splitlines()]
    return [dict(zip(header, line, strict=True)) for line in lines]


RANKS = [["dpo,rank=4", {"rank": 4}], ["dpo", {"rank": 16}]]


def test_a_sweep_is_one_line_a_setting_with_its_overrides_costs_and_verdicts(in_folder):
    write("dpo,rank=4", right=2, tokens=50)
    write("dpo", right=18, tokens=80)
    first, second = table(RANKS)
    parts = (
        "",
        "_low",
        "_high",
        "_n",
        "_clusters",
        "_sd",
        "_difference",
        "_difference_low",
        "_difference_high",
        "_p",
        "_verdict",
    )
    metrics = ("perplexity", "exact_match")
    costs = ["work", "work_unit", "seconds", "memory_gib", "overruled"]
    assert list(first) == ["runs", "rank", *costs, *(f"{m}{part}" for m in metrics for part in parts)]
    assert list(first.values())[:7] == [
        "dpo,rank=4",
        "4",
        "2.5e+11",
        "FLOP",
        "60",
        "1.5",
        "",
    ]  # 50e6 x (4 x 1000 + 2 x 500)
    assert [first[f"exact_match{part}"] for part in ("", "_sd", "_p", "_verdict")] == ["0.1", "", "", ""]
    assert [second[f"exact_match{part}"] for part in ("", "_difference", "_verdict")] == ["0.9", "0.8", "better"]
    assert float(second["exact_match_p"]) == pytest.approx(2 * 2 / 2**16, rel=1e-4)  # the smaller of two
    assert (second["perplexity_p"], second["perplexity_verdict"]) == ("1", "no evidence")


def test_trainings_of_one_setting_are_one_line_with_their_spread(in_folder):
    points = [[f"dpo,rank={r},seed={s}", {"rank": r, "seed": s}] for r in (4, 8) for s in (1, 2)]
    for name, overrides in points:
        write(name, right=10, loss=1.5 + 0.01 * overrides["seed"], tokens=50 + 2 * overrides["seed"])
    first, _ = table(points)
    assert first["runs"] == "dpo,rank=4,seed=1 dpo,rank=4,seed=2"
    assert (first["work"], "seed" in first) == ("2.65e+11", False)
    assert float(first["perplexity_sd"]) > 0 and first["exact_match_sd"] == "0"


def test_what_looks_better_among_many_is_corrected_for_their_number(in_folder):
    write("dpo,rank=1", right=2, suite="t")
    write("dpo,rank=2", right=11, suite="t")  # 9 wins of 9 alone are p = 0.004
    _, line = table([[f"dpo,rank={rank}", {"rank": rank}] for rank in (1, 2)])
    assert line["t/exact_match_verdict"] == "better"
    for rank in (3, 4, 5):
        write(f"dpo,rank={rank}", right=2, suite="t")
    _, line, *_ = table([[f"dpo,rank={rank}", {"rank": rank}] for rank in (1, 2, 3, 4, 5)])
    assert float(line["t/exact_match_p"]) == pytest.approx(20 * 2 / 2**9, rel=1e-4)
    assert line["t/exact_match_verdict"] == "no evidence"


def test_the_margin_is_compared_only_where_the_parent_is_the_same(in_folder):
    write("dpo,rank=4", right=2, parent="sft,rank=4", margin_prefers_chosen=0.0)
    write("dpo", right=18, parent="sft", margin_prefers_chosen=1.0)
    _, line = table(RANKS)
    assert (line["preference_margin_accuracy"], line["preference_margin_accuracy_verdict"]) == ("1", "")
    assert line["exact_match_verdict"] == "better"
    page = html(RANKS)
    assert page.count("the parents differ, so it is not compared") == 1


def test_every_figure_is_a_file_of_two_kinds_and_the_same_inputs_give_the_same_bytes(in_folder):
    write("dpo,rank=4", right=2, suite="sums/hard", tokens=50)
    write("dpo", right=18, suite="sums/hard", tokens=60)
    folder = compare(RANKS)
    before = {file: file.read_bytes() for file in folder.rglob("*.*") if file.is_file()}
    names = {"sums_hard_perplexity", "sums_hard_exact_match", "cost"}
    assert {file.stem for file in before} == names | {"table", "report", "context"}
    assert all(before[folder / f"plots/{name}.png"][:4] == PNG for name in names)
    assert all(
        name in (folder / "plots/cost.svg").read_text() for name in (">4<", ">16<", "GFLOP; points: rank<", "100%<")
    )
    compare(RANKS)
    assert {file: file.read_bytes() for file in before} == before


def test_the_page_stands_alone_says_the_answer_first_and_escapes_what_is_the_users(in_folder):
    points = [["a", {"loss_type": "<b>one"}], ["b", {"loss_type": "two"}]]
    write("a", right=2)
    write("b", right=18)
    page = (compare(points) / "report.html").read_text()
    assert "<b>one" not in page and "&lt;b&gt;one" in page
    assert not any(outside in page for outside in ('src="http', "<script", '<link rel="stylesheet"', "@import"))
    order = ["Take loss_type two", 'id="metric-1"', 'id="cost"', 'id="how"', "results/sweeps/s/report.html"]
    assert [page.index(part) for part in order] == sorted(page.index(part) for part in order)
    assert page.count('class="figure"') == 2 + 1


def test_a_sweep_of_seeds_alone_says_how_far_they_differ(in_folder):
    points = [[f"dpo,seed={s}", {"seed": s}] for s in (1, 2, 3)]
    for k, (name, _) in enumerate(points):
        write(name, right=10 + k)
    (line,) = table(points)
    assert line["exact_match_sd"] == "0.05"
    page = (compare(points) / "report.html").read_text()
    assert "3 trainings of 1 setting, which differ in the seed." in page
    assert "Seed: three trainings differ by 10 points in exact_match." in page
    assert "nothing is compared" in page


# ---- the terminal


def shown(in_folder, width: int) -> str:
    for name, right in (("dpo,rank=4", 2), ("dpo", 18)):
        write(name, right)
    return compare_sweep.printed(sweep_results.read("rank", RANKS), width)


def test_the_terminal_shows_a_short_table_and_what_it_says(in_folder):
    assert shown(in_folder, 120).splitlines() == [
        "         perplexity  exact_match",
        "--------------------------------",
        "rank=4   8.58        10%",
        "rank=16  8.58        90% better",
        "",
        "better, worse: than rank=4, corrected for all 2 comparisons (Holm).",
        "",
        "Take rank 16 (300 GFLOP of training, 1.5 GiB): the cheapest of the settings that no other is shown to beat in perplexity",
        "  or exact_match.",
        "Every setting takes about as much work to train, so the smaller value counts as cheaper.",
        "Each setting was trained once, so the spread between trainings is unknown: add seed: [1, 2, 3] to the sweep.",
        "rank 4 is enough: no evidence that 16 is better in perplexity (the same in every example).",
        "rank 16 is better than 4 in exact_match (by 80 points).",
    ]


def test_a_check_that_was_overruled_stands_beside_every_verdict(in_folder):
    check = {"name": "overlap", "severity": "error", "result": "allowed", "message": "3 rows are in both"}
    for name, right in (("dpo,rank=4", 2), ("dpo", 18)):
        write(name, right)
        write_json(Path(f"results/{name}/preflight.json"), {"checks": [check]})
    text = compare_sweep.printed(sweep_results.read("rank", RANKS), 140)
    assert "90% better (overruled: overlap)" in text
    assert "The check overlap was overruled for dpo,rank=4, dpo: 3 rows are in both." in text
    page = html(RANKS)
    assert page.count("overruled: overlap") == 2  # of both metrics
    assert page.count("The check overlap was overruled for") == 1
    assert table(RANKS)[1]["overruled"] == "overlap"


def test_rows_of_one_prompt_are_compared_together_and_counted(in_folder):
    for name, right in (("dpo,rank=4", 0), ("dpo", 20)):
        write(name, right)
        file = Path(f"results/{name}/eval/examples.parquet")
        rows = [row | {"prompt_group": str(i // 2)} for i, row in enumerate(pq.read_table(file).to_pylist())]
        pq.write_table(pa.Table.from_pylist(rows), file)
        found = {m: summary(how, columns(how, having), clusters(having)) for m, how, having in measured(rows)}
        write_json(Path(f"results/{name}/eval.json"), {"metrics": found})
    _, line = table(RANKS)
    assert (line["exact_match_n"], line["exact_match_clusters"], line["exact_match_verdict"]) == ("20", "10", "better")
    assert float(line["exact_match_p"]) == pytest.approx(2 * 2 / 2**10, rel=1e-4)
    page = html(RANKS)
    assert "20 examples of 10 prompts" in page


def test_too_few_examples_say_so_everywhere(in_folder):
    for name, right in (("dpo,rank=4", 0), ("dpo", 6)):
        write(name, right, n=6)
    page = html(RANKS)
    assert (
        "No setting is recommended: 6 examples are too few to show a difference in perplexity and exact_match." in page
    )
    assert page.count('<span class="quiet">too few examples</span>') == 2
    assert table(RANKS)[1]["exact_match_verdict"] == "no evidence"


def test_work_is_in_rows_where_a_run_has_not_counted_its_tokens(in_folder):
    write("a", 1)
    write("b", 1)
    Path("results/b/train.jsonl").write_text('{"step": 1, "loss": 1.0}\n')
    assert work.of_each(["a"]) == ({"a": 60e6 * 5000}, "FLOP")
    assert work.of_each(["a", "b"]) == ({"a": 80, "b": 80}, "rows")
    assert [work.amount(3.1234e12, "FLOP"), work.amount(120.4, "FLOP"), work.amount(1200, "rows")] == [
        "3.12 TFLOP", "120 FLOP", "1,200 rows",
    ]  # fmt: skip


@pytest.mark.parametrize("width", [24, 40, 80])
def test_the_terminals_table_is_folded_where_it_is_too_wide(in_folder, width):
    text = shown(in_folder, width)
    assert max(map(len, text.splitlines())) <= width
    assert text.count("rank=16  ") == (2 if width < 32 else 1)


# ---- axes


@pytest.mark.parametrize(
    ("numbers", "scale"),
    [
        ([1e-5, 1e-4, 1e-3], "log"),
        ([2, 4, 8], "linear"),
        ([4, 8, 16, 32, 64], "log"),
        ([1, 5, 10], "linear"),
        ([0, 0.1, 10], "linear"),
        ([8], "linear"),
    ],
)
def test_an_axis_is_log_where_ratios_are_even_over_a_decade(numbers, scale):
    assert sweep_figures.axis_scale(numbers) == scale


LAYOUTS = [
    ([{"rank": 4}, {"rank": 8}], ("rank", None), ([4, 8], "linear")),
    ([{"method": "lora"}, {"method": "full"}], ("method", None), ([0, 1], "categories")),
    ([{"learning_rate": "1e-5"}, {"learning_rate": "1e-3"}], ("learning_rate", None), ([1e-5, 1e-3], "linear")),
    (
        [{"method": m, "rank": r} for m in ("lora", "dora") for r in (4, 8)],
        ("rank", "method"),
        ([4, 8, 4, 8], "linear"),
    ),
    ([{"rank": 4, "beta": 0.1}, {"rank": 8, "beta": 0.5}], (None, None), ([0, 1], "categories")),
    ([{"rank": 4}, {"beta": 0.5}], (None, None), ([0, 1], "categories")),
    ([{"a": 1, "b": 1, "c": 1}, {"a": 2, "b": 2, "c": 2}], (None, None), ([0, 1], "categories")),
]


@pytest.mark.parametrize(("overrides", "keys", "places"), LAYOUTS)
def test_numbers_are_an_axis_and_a_second_key_makes_lines(overrides, keys, places):
    sweep = Sweep("s", settings([(f"run{i}", own) for i, own in enumerate(overrides)]), {}, {}, {}, [], [], [])
    assert sweep_figures.layout(sweep) == keys
    assert sweep_figures.positions(sweep, keys[0]) == places


def test_grids_and_lists_can_be_drawn(in_folder):
    for name in "abcd":
        write(name, right=ord(name) - 90)
    grid = [{"learning_rate": rate, "method": method} for rate in (1e-4, 1e-3) for method in ("lora", "full")]
    compare([*zip("abcd", grid, strict=True)])
    values = [{"rank": 2}, {"beta": 0.2}, {"rank": 4, "beta": 0.2, "seed": 3}, {}]
    assert "as configured" in (compare([*zip("abcd", values, strict=True)]) / "report.html").read_text()


def test_the_loss_of_a_lineage_is_drawn_with_what_was_held_out(in_folder):
    lines = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.5}, {"step": 2, "eval_loss": 1.6}]
    for run in ("sft", "dpo"):
        Path(run).mkdir()
        Path(f"{run}/train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    plot_loss.main(Namespace(steps=[Path("sft/train.jsonl"), Path("dpo/train.jsonl")], output=Path("loss.png")))
    assert Path("loss.png").read_bytes()[:4] == PNG


def judge(name: str, wins: list[float]) -> None:
    """What a judge leaves of a point that `write` made."""
    rows = [{"suite": "", "dataset": "sums", "id": str(i), "win": win} for i, win in enumerate(wins)]
    folder = Path(f"results/{name}/judge")
    folder.mkdir()
    (folder / "verdicts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = json.loads((folder.parent / "eval.json").read_text())
    value = sum(wins) / len(wins)
    result["metrics"]["win_rate"] = {"value": value, "low": 0.0, "high": 1.0, "n": len(wins), "clusters": len(wins)}
    write_json(folder.parent / "eval.json", result)


@pytest.mark.parametrize(("parent", "compared"), [("sft", True), ("another", False)])
def test_win_rates_are_compared_where_all_are_against_the_same_parent(in_folder, parent, compared):
    write("dpo,rank=4", right=10, parent=parent)
    write("dpo", right=10)
    judge("dpo,rank=4", [0.5] * 10 + [0.0] * 10)
    judge("dpo", [1.0] * 10 + [0.5] * 10)
    sweep = sweep_results.read("s", RANKS)
    assert [row["value"] for row in sweep.values["win_rate"]] == [0.25, 0.75]
    assert ("win_rate" in sweep.compared) == compared
    if compared:
        assert sweep.rows["win_rate", 0, 1]["verdict"] == "better"
