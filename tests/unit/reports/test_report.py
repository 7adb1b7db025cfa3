"""What the report says: verdicts in words, cost, licences, and numbers as people read them."""

import json
from pathlib import Path

import made_up_results
import pytest

from posttrain.evaluation import answer_differences
from posttrain.reports import report
from posttrain.runtime.atomic import read_json, write_json


@pytest.fixture
def context(in_folder) -> dict:
    answer_differences.answers.cache_clear()
    return made_up_results.write(4)


@pytest.fixture
def found(context) -> dict:
    return report.collect(context)


def test_what_came_out_is_better_worse_and_no_evidence_in_this_order_with_both_values(found):
    said = {run["name"]: run["sentences"] for run in found["said"]}
    assert said["sft_0"] == [
        ("better", [{"other": "base", "metrics": ["perplexity (5.17 → 4.67)"], "more": 0}]),
        ("worse", [{"other": "base", "metrics": ["format_followed (75% → 50%)"], "more": 0}]),
        ("no evidence", [{"other": "base", "metrics": ["exact_match"], "more": 0}]),
        ("too few examples", [{"other": "base", "metrics": ["safety/refusal (8 examples)"], "more": 0}]),
    ]
    assert [clause["other"] for clause in said["dpo_1"][0][1]] == ["sft_0", "base"]
    assert said["reward_2"] == []
    assert found["said"][2]["alone"] == ["reward_accuracy 75%"]


def test_of_many_metrics_without_evidence_four_are_named():
    rows = {f"suite/m{i}": {"verdict": "no evidence", "difference": 0.0, "detectable": 0.2} for i in range(9)}
    ((_, (clause,)),) = report.said({"eval": {"against": {"base": rows}, "metrics": {}}})
    assert (len(clause["metrics"]), clause["more"]) == (4, 5)


def test_of_values_that_read_the_same_the_difference_is_said():
    rows = {"perplexity": {"verdict": "better", "difference": -0.002}}
    metrics = {"perplexity": {"value": 488.1}}
    ((_, (clause,)),) = report.said({"eval": {"against": {"base": rows}, "metrics": metrics}})
    assert clause["metrics"] == ["perplexity (488, by \N{MINUS SIGN}0.002)"]


def test_the_columns_are_every_models_metrics_the_standard_ones_first(found):
    assert [column["name"] for column in found["metrics"]] == [
        "perplexity", "reward_accuracy", "exact_match", "format_followed", "safety/refusal",
    ]  # fmt: skip
    assert [column["higher"] for column in found["metrics"]] == [False, True, True, True, True]


def test_every_comparison_is_a_row(found):
    assert len(found["comparisons"]) == 4 + 2 * 4 + 0 + 2 * 4
    assert found["comparisons"][0] == {"name": "sft_0", "other": "base", "metric": "perplexity", "difference": -0.5, "low": -0.75,
                                       "high": -0.25, "p": 0.0004, "verdict": "better", "detectable": None, "basis": "20 examples",
                                       "overruled": "overlap"}  # fmt: skip


def test_an_overruled_check_is_said_once_and_stands_beside_the_verdicts_of_the_run_and_its_children(found):
    assert found["overruled"] == ["The check overlap was overruled for sft_0, dpo_1, reward_2 and 1 more: 3 rows."]
    assert {model["name"]: model["overruled"] for model in found["models"]} == {
        "base": "", "sft_0": "overlap", "dpo_1": "overlap", "reward_2": "overlap", "ppo_3": "overlap",
    }  # fmt: skip
    assert all(row["overruled"] == "overlap" for row in found["comparisons"])


def test_of_checks_that_say_the_same_the_first_is_told(found):
    assert found["repeated"]["dpo_1", "overlap"] == "sft_0"
    assert not any(run == "sft_0" for run, _ in found["repeated"])


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
    cost = report.collect(context | {"watts": 500.0})["cost"]
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
    rows = {row["name"]: row for row in report.collect(context)["licences"]}
    assert rows["base"] == {"name": "base", "own": None, "parts": []}
    assert rows["sft_0"]["own"] == "mit"


def test_reports_ratings_and_sweeps_that_are_not_there_are_absent_or_said_to_be(context):
    found = report.collect(context)
    assert [data["name"] for data in found["datasets"]] == ["chats"]
    assert (found["sweeps"][0]["there"], found["ratings"][0]["there"], found["ratings"][0]["result"]) == (
        False,
        False,
        None,
    )


def test_a_rating_that_is_there_is_read(context, in_folder):
    questions = {"helpfulness": {"a": 1, "b": 3, "ties": 2, "verdict": "no evidence"}}
    write_json(in_folder / "results/ratings/sft_0~dpo_1/ratings.json", {"questions": questions})
    assert report.collect(context)["ratings"][0]["result"]["questions"] == questions


def test_a_page_of_many_runs_has_fewer_points_a_curve_and_fewer_answers(context, monkeypatch):
    monkeypatch.setattr(report, "CURVES_BYTES", 14 * 9 * 4 * 50)  # of 9 or 10 curves a run
    monkeypatch.setattr(report, "ALL_EXAMPLES", 8)
    for name in ("sft_0", "dpo_1", "reward_2", "ppo_3"):
        lines = made_up_results.lines("sft", 300)
        Path(f"results/{name}/train.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    found = report.collect(context)
    longest = max(len(series["x"]) for run in found["curves"] for panel in run["panels"] for series in panel["series"])
    assert found["curves"][0]["thinned"] == 56
    assert 40 < longest <= 56
    assert all(len(run["examples"]) == 2 for run in found["generations"])


def test_a_still_picture_lies_in_its_box_upside_up():
    panel = report.curves.panels(made_up_results.lines("sft", 300))[0]
    still = report.still(panel)
    places = [tuple(map(int, place.split(","))) for place in still["lines"][0].split()]
    assert (min(x for x, _ in places), max(x for x, _ in places)) == (0, 300)
    assert places[0][1] < places[-1][1] == 110  # the loss falls
    assert (still["left"], still["right"]) == ("1", "300")
    assert 190 < int(still["mark"]) < 210


def test_a_level_curve_of_one_step_lies_in_the_middle():
    panel = report.curves.panels([{"step": 1, "loss": 2.0}])[0]
    assert report.still(panel)["lines"] == ["150,55"]


@pytest.mark.parametrize(
    ("number", "text"),
    [(3.13217, "3.13"), (12345.6, "12,346"), (-0.5, "\N{MINUS SIGN}0.5"), (0, "0"), (-0.0, "0"), (9.2e-5, "9.2e-05"),
     (-1234567.0, "\N{MINUS SIGN}1,234,567")],
)  # fmt: skip
def test_numbers_are_short(number, text):
    assert report.short(number) == text


def test_a_share_is_in_percent_and_its_difference_in_points():
    assert report.value("suite/exact_match", 0.125) == "12.5%"
    assert report.value("perplexity", 3.13217) == "3.13"
    assert report.signed("exact_match", 0.05) == "+5 points"
    assert report.either("exact_match", 0.3) == "±30 points"
    assert report.either("rougeL", 0.0) == "the same in every example"
    assert report.signed("perplexity", -2.0) == "\N{MINUS SIGN}2"
    assert (report.chance(0.0004), report.chance(0.031)) == ("< 0.001", "0.031")
    assert (report.energy(0.00088), report.energy(2.5)) == ("0.88 Wh", "2.5 kWh")


def test_the_numbers_are_those_of_the_files(found):
    assert found["models"][1]["eval"] == read_json(Path("results/sft_0/eval.json"))
    assert found["runs"][0]["provenance"] == read_json(Path("results/sft_0/provenance.json"))
