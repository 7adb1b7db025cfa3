"""What the report says: verdicts in words, cost, licences, curves."""

import json
from pathlib import Path

import made_up_results
import pytest

from posttrain.reports import answer_differences, curves, run_report, summary, training_curves
from posttrain.runtime.atomic import read_json, write_json


@pytest.fixture
def context(in_folder) -> dict:
    answer_differences.answers.cache_clear()
    return made_up_results.write(4)


@pytest.fixture
def found(context) -> dict:
    return run_report.collect(context)


def test_a_card_has_the_verdicts_against_the_parent_and_then_those_against_the_base(found):
    cards = {card["name"]: card for card in found["cards"]}
    parent, base = cards["dpo_1"]["others"]
    assert [(row["word"], row["other"], row["metric"]) for row in parent["decided"]] == [
        ("better", "sft_0", "perplexity"), ("worse", "sft_0", "format_followed"),
    ]  # fmt: skip
    assert parent["unclear"] == [
        "No evidence of a difference from sft_0 on exact match.",
        "Too few examples (n 8) to compare with sft_0 on safety: refusal.",
    ]
    assert {row["other"] for row in base["decided"]} == {"base"}
    assert cards["reward_2"]["alone"] == ["reward accuracy 75% [50, 90], n 20"]
    assert cards["reward_2"]["others"] == []


def row(metric: str, word: str, other: str = "parent") -> dict:
    return {"metric": metric, "word": word, "other": other, "examples": "n 20"}


RUN = {"name": "run", "objective": "dpo", "method": "lora", "parent": "parent", "overruled": "", "diagnosis": []}


def test_of_many_metrics_without_evidence_four_are_named():
    (parent,) = summary.card(RUN, [row(f"suite/m{i}", "no evidence") for i in range(9)])["others"]
    assert parent["unclear"] == [
        "No evidence of a difference from parent on suite: m0, suite: m1, suite: m2, suite: m3 and 5 more."
    ]


def test_of_many_verdicts_the_first_are_shown_and_the_rest_counted():
    card = summary.card(RUN, [row(f"m{i}", "better", other) for i in range(8) for other in ("base", "parent")])
    assert [(one["decided"][0]["other"], len(one["decided"]), one["more"]) for one in card["others"]] == [
        ("parent", 6, 2), ("base", 6, 2),
    ]  # fmt: skip


def test_key_figures_count_runs_by_what_was_decided(found):
    assert found["tiles"] == [
        ("4", "trained models"),
        ("3", "better than the parent in some metric"),
        ("3", "worse than the parent in some metric"),
        ("4", "rest on a check that was overruled"),
        ("4 h 06 min", "of training and evaluation"),
        ("8.22 EUR", "at 2 an hour"),
    ]


def test_every_metric_is_a_group_of_all_models_that_have_it_the_standard_ones_first(found):
    assert [(group["name"], group["better"], len(group["rows"])) for group in found["groups"]] == [
        ("perplexity", "lower", 4), ("reward_accuracy", "higher", 1), ("exact_match", "higher", 4),
        ("format_followed", "higher", 4), ("safety/refusal", "higher", 4),
    ]  # fmt: skip
    assert found["comparisons"] == 4 + 2 * 4 + 0 + 2 * 4


def test_a_comparison_has_its_verdict_difference_and_bar(found):
    base, sft, dpo, _ = found["groups"][0]["rows"]
    assert (base["value"], base["interval"], base["against"]) == ("5.0", "[4.0, 6.0]", [])
    assert [one["role"] for one in dpo["against"]] == ["parent", "base"]
    (one,) = sft["against"]
    assert (one["word"], one["difference"], one["p"]) == (
        "better", "\N{MINUS SIGN}0.50 [\N{MINUS SIGN}0.75, \N{MINUS SIGN}0.25]", "<0.001",
    )  # fmt: skip
    assert one["bar"]["low"] > 50  # less perplexity is better, and better is on the right


def test_an_overruled_check_is_said_once_and_stands_beside_the_verdicts_of_the_run_and_its_children(found):
    assert found["overruled"] == ["The check overlap was overruled for sft_0, dpo_1, reward_2 and 1 more: 3 rows."]
    assert {model["name"]: model["overruled"] for model in found["models"]} == {
        "base": "", "sft_0": "overlap", "dpo_1": "overlap", "reward_2": "overlap", "ppo_3": "overlap",
    }  # fmt: skip
    assert all(card["overruled"] == "overlap" for card in found["cards"])


def test_a_card_names_what_the_doctor_found(found):
    assert all("contaminated-benchmark" in [one.code for one in card["diagnosis"]] for card in found["cards"])
    assert "docs/troubleshooting.md#contaminated-benchmark" in run_report.page(found)


def test_each_finding_of_the_checks_is_told_once_with_its_runs_and_what_was_overruled_first(found):
    runs = ["sft_0", "dpo_1", "reward_2", "ppo_3"]
    assert [(one["word"], one["check"], one["runs"]) for one in found["findings"]] == [
        ("overruled", "overlap", runs),
        ("warning", "rank", runs),
    ]


def test_ancestors_lead_from_the_parent_to_the_base(found):
    assert {model["name"]: model["ancestors"] for model in found["models"]} == {
        "base": [], "sft_0": ["base"], "dpo_1": ["sft_0", "base"], "reward_2": ["sft_0", "base"], "ppo_3": ["sft_0", "base"],
    }  # fmt: skip


def test_cost_adds_up_and_energy_is_estimated_from_threads_and_gpu(found):
    cost = found["cost"]
    base, sft, *_ = cost["rows"]
    assert (base["train"], base["eval"], sft["train"], sft["seconds"]) == (0, 90.0, 3600.0, 3690.0)
    assert sft["kwh"] == pytest.approx(3690 / 3600 * (8 * 10 + 700) / 1000)
    assert cost["total"]["seconds"] == pytest.approx(sum(row["seconds"] for row in cost["rows"]))
    assert "10 W for each thread" in cost["assumption"]
    assert "700 W for NVIDIA H100 80GB HBM3" in cost["assumption"]


def test_watts_that_are_configured_are_taken(context):
    cost = run_report.collect(context | {"watts": 500.0})["cost"]
    assert cost["rows"][0]["kwh"] == pytest.approx(90 / 3600 * 0.5)
    assert cost["assumption"] == "Energy: 500 W, as the configuration says, for every hour."


def test_a_model_inherits_the_licences_of_what_it_is_built_on(found):
    rows = {row["name"]: row for row in found["licences"]}
    assert [part["licence"] for part in rows["base"]["parts"]] == ["apache-2.0"]
    assert rows["dpo_1"]["own"] == "apache-2.0-and-cc-by-nc-4.0"
    assert [part["forbids"] for part in rows["dpo_1"]["parts"]] == [False, True]


def test_a_base_of_random_weights_has_no_licence(context):
    for model in context["models"][1:]:
        del model["licences"]["bases.base"]
    rows = {row["name"]: row for row in run_report.collect(context)["licences"]}
    assert rows["base"] == {"name": "base", "own": None, "parts": []}
    assert rows["sft_0"]["own"] == "mit"


def test_reports_ratings_and_sweeps_that_are_not_there_are_absent_or_said_to_be(context):
    found = run_report.collect(context)
    assert [data["name"] for data in found["datasets"]] == ["chats"]
    assert (found["sweeps"][0]["built"], found["ratings"][0]["built"], found["ratings"][0]["result"]) == (
        False,
        False,
        None,
    )


def test_a_rating_that_is_there_is_read(context, in_folder):
    questions = {"helpfulness": {"a": 1, "b": 3, "ties": 2, "verdict": "no evidence"}}
    write_json(in_folder / "results/ratings/sft_0~dpo_1/ratings.json", {"questions": questions})
    assert run_report.collect(context)["ratings"][0]["result"]["questions"] == questions


def test_a_page_of_many_runs_has_fewer_points_a_curve_and_fewer_answers(context, monkeypatch):
    monkeypatch.setattr(training_curves, "CURVES_BYTES", 14 * 9 * 4 * 50)  # of 9 or 10 curves a run
    monkeypatch.setattr(run_report, "MAX_ALL_EXAMPLES", 8)
    for name in ("sft_0", "dpo_1", "reward_2", "ppo_3"):
        lines = made_up_results.lines("sft", 300)
        Path(f"results/{name}/train.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    found = run_report.collect(context)
    longest = max(
        len(series["x"])
        for run in found["curves"]
        for panel in [*run["panels"], *run["aside"]]
        for series in panel["series"]
    )
    assert found["curves"][0]["thinned"] == 56
    assert 40 < longest <= 56
    assert all(len(run["examples"]) == 2 for run in found["answers"])


def test_a_still_picture_lies_in_its_box_upside_up_between_round_numbers():
    panel = curves.panels(made_up_results.lines("sft", 300))[0]
    still = training_curves.still(panel)
    places = [tuple(map(int, place.split(","))) for place in still["lines"][0].split()]
    assert (min(x for x, _ in places), max(x for x, _ in places)) == (0, 300)
    assert places[0][1] < places[-1][1] < 110  # the loss falls, to more than nothing
    assert (still["left"], still["right"]) == ("1", "300")
    assert [label for _, label in still["heights"]] == ["0", "0.5", "1", "1.5", "2"]
    assert 190 < int(still["mark"]) < 210


def test_few_points_are_told_in_words(found):
    run = {"name": "run", "train": {"steps": 2}, "steps": made_up_results.lines("dpo", 2)}
    told = training_curves.training(run, 1)
    assert told["panels"] == told["aside"] == []
    words = dict(told["few"])
    assert words["memory"] == "12.5 GiB, 12.5 GiB"
    assert words["rewards"].startswith("chosen 0.0101, 0.0202; rejected \N{MINUS SIGN}0.0101")


def test_what_the_machine_did_is_apart_from_what_was_learnt(found):
    titles = [panel["title"] for panel in found["curves"][1]["panels"]]
    assert titles == ["loss", "rewards", "rewards/margins"]
    assert {panel["title"] for panel in found["curves"][1]["aside"]} >= {"learning rate", "memory", "gradient norm"}


def test_the_numbers_are_those_of_the_files(found):
    assert found["models"][1]["eval"] == read_json(Path("results/sft_0/eval.json"))
    assert found["runs"][0]["provenance"] == read_json(Path("results/sft_0/provenance.json"))


def test_a_win_rate_is_among_the_results_and_its_judge_below_them(context):
    folder = Path("results/dpo_1")
    result = read_json(folder / "eval.json")
    share = {"value": 0.75, "low": 0.6, "high": 0.85, "n": 40, "clusters": 20}
    result["metrics"]["helpful/win_rate"] = share
    result["against"]["sft_0"]["helpful/win_rate"] = {
        "difference": 0.5, "low": 0.2, "high": 0.7, "p": 0.001, "verdict": "better",
    }  # fmt: skip
    about = {
        "by": f"{made_up_results.SCRIPT} at https://host/v1",
        "against": "sft_0",
        "pairs": 20,
        "unreadable": 1,
        "cost": 0.25,
    }
    result["judge"] = {"helpful": about | {"ties": share, "first": share, "agreement": share}}
    write_json(folder / "eval.json", result)
    found = run_report.collect(context)
    assert found["judged"] == [
        f"dpo_1: helpful judged by {made_up_results.SCRIPT} at https://host/v1 against sft_0: wins 75% [60%, 85%] of 20 pairs, 75% ties, "
        "the first answer won 75% [60%, 85%] of the verdicts, 1 reply without a verdict, people agree on 75% [60%, 85%] of 40 pairs, "
        "cost 0.25"
    ]
    (group,) = [group for group in found["groups"] if group["name"] == "helpful/win_rate"]
    assert [(row["value"], [one["word"] for one in row["against"]]) for row in group["rows"]] == [("75%", ["better"])]
    page = run_report.page(found)
    assert (
        "<h3>Judges</h3>" in page
        and made_up_results.SCRIPT not in page.partition("<h3>Judges</h3>")[2].partition("</ul>")[0]
    )
