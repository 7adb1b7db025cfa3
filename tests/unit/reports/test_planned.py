"""Estimates beside what the jobs took."""

import os
from pathlib import Path

import made_up_results
import pytest

from posttrain.reports import answer_differences, planned, run_report
from posttrain.runtime.atomic import write_json
from posttrain.workflow import paths

ROW = {
    "low": 40.0,
    "high": 90.0,
    "source": "similar run",
    "basis": "",
    "memory": 2.2e9,
    "disk": 0.0,
    "planned": 1_000.0,
}


def record(job: str, seconds: float, at: float, mib: float = 2000) -> None:
    file = paths.record(job)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"s\tmax_rss\tcpu_time\n{seconds}\t{mib}\t1.0\n")
    os.utime(file, (at, at))


@pytest.fixture
def plan(in_folder):
    """Three planned jobs: two have run since, one before, and one has not."""
    jobs = {name: ROW | {"seconds": 60.0} for name in ("sft/sft_0", "eval/sft_0", "dpo/dpo_1", "merge/dpo_1")}
    Path("results").mkdir()
    write_json(paths.PLAN, {"jobs": jobs})
    record("sft/sft_0", 50.0, at=2_000)
    record("eval/sft_0", 120.0, at=2_000)
    record("dpo/dpo_1", 120.0, at=500)


def test_jobs_that_ran_after_their_plan_are_compared(plan):
    rows = planned.compared()
    assert [(row.job, row.planned, row.took, row.difference) for row in rows] == [
        ("sft/sft_0", 60, 50, "+20%"), ("eval/sft_0", 60, 120, "\N{MINUS SIGN}50%"),
    ]  # fmt: skip
    assert rows[0].memory_said == "2.1 GB"


def test_the_summary_has_the_errors_of_times_and_of_the_trainings_memory(plan):
    found = planned.summary(planned.compared())
    assert {key: round(value, 3) for key, value in found.items()} == {
        "jobs": 2, "median_error": 0.35, "within": 0.5, "in_range": 0.5, "total_error": round(120 / 170 - 1, 3),
        "memory_median_error": round(2.2e9 / (2000 * 2**20) - 1, 3), "memory_within": 1.0, "trainings": 1,
    }  # fmt: skip


def test_without_a_plan_there_is_nothing(in_folder):
    assert planned.compared() == [] and planned.summary([]) is None


def test_the_report_shows_them_and_without_a_plan_it_is_what_it_was(plan):
    answer_differences.answers.cache_clear()
    context = made_up_results.write(4)
    page = run_report.page(run_report.collect(context))
    assert "Planned and taken" in page and "sft/<wbr>sft_0" in page
    paths.PLAN.unlink()
    assert "Planned and taken" not in run_report.page(run_report.collect(context))
