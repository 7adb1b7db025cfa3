"""The report's page: whole, safe, small enough with many runs, and always the same bytes."""

import json
import re
from argparse import Namespace
from pathlib import Path

import made_up_results
import pytest
from html_page import Page
from made_up_results import SCRIPT

import make_report
from posttrain.reports import answer_differences, run_report
from posttrain.runtime.atomic import write_json
from posttrain.runtime.errors import UserError


@pytest.fixture(autouse=True)
def forgotten():
    answer_differences.answers.cache_clear()


def page(context: dict) -> str:
    return run_report.page(run_report.collect(context))


@pytest.fixture(scope="module")
def four(tmp_path_factory) -> str:
    """The page of four runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("four"))
        answer_differences.answers.cache_clear()
        return page(made_up_results.write(4))


def test_the_page_is_well_formed_and_rows_with_markup_stay_text(four):
    found = Page(four)
    assert found.tags.count("script") == 3  # the curves, uPlot, ours
    assert SCRIPT in found.text
    assert found.tags.count("h1") == found.tags.count("main") == 1
    assert set(found.tags) >= {"ins", "del"}


def test_every_link_inside_leads_somewhere_and_no_id_is_twice(four):
    found = Page(four)
    ids = found.values("id")
    assert len(ids) == len(set(ids))
    inside = {link.removeprefix("#") for link in found.values("href") if link.startswith("#")}
    assert inside <= set(ids)
    assert {"run-ppo_3", "rebuild-base", "table"} <= inside


def test_nothing_is_asked_from_a_network_and_the_kept_library_has_its_licence(four):
    found = Page(four)
    assert not any(link.startswith(("http", "//")) for link in [*found.values("href"), *found.values("src")])
    assert "default-src 'none'" in four
    assert "Permission is hereby granted" in four
    assert "Leon Sorokin" in four


def test_the_curves_are_json_that_a_browser_reads(four):
    text = re.search(r'<script type="application/json" id="curves">(.*?)</script>', four, re.DOTALL)[1]
    curves = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert len(curves) == max(map(int, Page(four).values("data-curve"))) + 1
    assert {"step", "minutes"} == {curve["across"] for curve in curves}


def test_the_page_says_what_a_reader_needs(four):
    text = re.sub(r"\s+", " ", Page(four).text).replace("\N{MINUS SIGN}", "-")
    for sentence in (
        "trained models 4 better than the parent in some metric 3",
        "rest on a check that was overruled 4 of training and evaluation 4 h 06 min at 2 an hour 8.22 EUR",
        "Overruled checks: read the verdicts with this in mind The check overlap was overruled for sft_0, dpo_1, reward_2 and 1 more",
        "sft_0 overruled: overlap sft, lora, from base ▲ Better than base on perplexity : -0.50 [-0.75, -0.25], n 20 (5.2 → 4.7)",
        "▼ Worse than base on format followed : -25 points [-50, -12], n 60 of 20 prompts (75% → 50%)",
        "No evidence of a difference from sft_0 on exact match.",
        "Too few examples (n 8) to compare with sft_0 on safety: refusal.",
        "Compared with no other model: reward accuracy 75% [50, 90], n 20.",
        "0% [0, 17] n 20 no evidence vs parent 0 points [0, 0] p 1; would show ±30 points",
        "chats base 5.0 [4.0, 6.0] n 10 chats sft_0",
        "20 comparisons are made here: if no two models differed, about 1 of them",
        "Overfits from step 20 on",
        "1 of 3 passed",
        "warning rank : high",
        "overruled overlap : 3 rows sft_0, dpo_1, reward_2, ppo_3",
        "forbids commercial use",
        "snakemake --cores 2 results/dpo_1/eval.json",
        "Not built yet: results/sweeps/rank/report.html",
    ):
        assert sentence in text


def test_without_runs_there_is_nothing_to_report(in_folder):
    write_json(Path("context.json"), made_up_results.write(0))
    options = Namespace(context=Path("context.json"), cores=1, output=Path("a.html"), figures=Path("figures"))
    with pytest.raises(UserError) as error:
        make_report.main(options)
    assert (error.value.code, error.value.place) == ("missing-key", "config/config.yaml")


def test_fifty_runs_fit_in_five_megabytes(in_folder):
    text = page(made_up_results.write(50, steps=400))
    assert len(text.encode()) < 5 * 2**20
    assert text.count('id="run-ppo_47,rank=8"') == 1


def test_the_page_and_its_figures_are_written_and_the_page_is_the_same_each_time(in_folder):
    context = made_up_results.write(1)
    write_json(Path("context.json"), context)
    options = Namespace(
        context=Path("context.json"), cores=1, output=Path("results/report.html"), figures=Path("results/figures")
    )
    make_report.main(options)
    text = options.output.read_text()
    answer_differences.answers.cache_clear()
    assert text == page(context)
    assert str(in_folder) not in text
    names = [f"sft_0-{what}.{kind}" for what in ("loss", "training") for kind in ("png", "svg")]
    assert sorted(file.name for file in options.figures.iterdir()) == names
    assert {f"figures/{name}" for name in names} <= set(Page(text).values("href"))


def test_a_sweep_that_is_built_is_linked(in_folder):
    context = made_up_results.write(1)
    write_json(Path("results/sweeps/rank/report.html"), "")
    assert "sweeps/rank/report.html" in Page(page(context)).values("href")
