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
from posttrain.evaluation import answer_differences
from posttrain.reports import report
from posttrain.runtime.atomic import packed, unpacked, write_json
from posttrain.runtime.errors import UserError
from posttrain.workflow.project import LONGEST_LINE


@pytest.fixture(autouse=True)
def forgotten():
    answer_differences.answers.cache_clear()


def page(context: dict) -> str:
    return make_report.html(report.collect(context))


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
    assert {"row-ppo_3", "made-base", "curves-dpo_1"} <= inside


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
    text = re.sub(r"\s+", " ", Page(four).text)
    for said in (
        "▲ Better than base in perplexity (5.17 → 4.67).",
        "▼ Worse than base in format_followed (75% → 50%).",
        "compared with nothing; reward_accuracy 75%.",
        "Too few examples to compare with base in safety/refusal (8 examples).",
        "▲ Better than base in perplexity (5.17 → 4.67). overruled: overlap",
        "Read the verdicts with this in mind. The check overlap was overruled for sft_0, dpo_1, reward_2 and 1 more: 3 rows.",
        "60 examples of 20 prompts",
        "overruled: overlap as for sft_0",
        "chats sums sums, easy base 5 4 to 6 10 examples 6 4 to 6 10 examples 7",
        "20 comparisons are made here, each at 5%: where no two models differed, about 1 of them",
        "Overfits from step 20 on",
        "1 passed, 1 do not apply",
        "warning: rank",
        "overruled: overlap",
        "forbids commercial use",
        "4 h 06 min",
        "snakemake --cores 2 results/dpo_1/eval.json",
        "Not built yet: results/sweeps/rank/report.html",
    ):
        assert said in text


def test_without_runs_there_is_nothing_to_report(in_folder):
    options = Namespace(
        context=packed(made_up_results.write(0)), cores=1, output=Path("a.html"), figures=Path("figures")
    )
    with pytest.raises(UserError, match=r"config/config.yaml: there are no runs to report on; write one under runs:"):
        make_report.main(options)


def test_fifty_runs_fit_in_five_megabytes(in_folder):
    text = page(made_up_results.write(50, steps=400))
    assert len(text.encode()) < 5 * 2**20
    assert text.count('id="row-ppo_47,rank=8"') == 1


def test_the_context_of_thousands_of_runs_fits_into_a_command_line(in_folder):
    context = made_up_results.write(4)
    context["models"] *= 1000
    assert len(packed(context)) < LONGEST_LINE < len(json.dumps(context))
    assert unpacked(packed(context)) == context


def test_the_page_and_its_figures_are_written_and_the_page_is_the_same_each_time(in_folder):
    context = made_up_results.write(1)
    options = Namespace(
        context=packed(context), cores=1, output=Path("results/report.html"), figures=Path("results/figures")
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
