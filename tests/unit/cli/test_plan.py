"""What `posttrain plan` prints: jobs, sums, and what does not fit."""

import pytest

from posttrain.cli import plan as command
from posttrain.models.machine import Memory
from posttrain.planning.plan import Plan, Planned
from posttrain.planning.timing import Estimate

KNOWN = Estimate(60.0, 30.0, 120.0, "record", "sft of sft_lora, 2 jobs")
UNKNOWN = Estimate(None, None, None, "", "")


def job(name: str, time: Estimate = KNOWN, serves: int = 1, memory: float | None = 2e9) -> Planned:
    rule, _, result = name.partition("/")
    return Planned(name, rule, result, time, memory, 5e8, 1e9, serves, [])


def plan(*jobs: Planned, **changes) -> Plan:
    machine = Memory("cpu", "this machine", 10**10, 10**10, True)
    seconds = 60.0 * len(jobs)
    parts = (["results/x/eval.json"], [*jobs], ["data/chats"], seconds, 0.0, machine, 2, 10**11, 60.0, True, 2.0, "EUR")
    whole = Plan(*parts)
    return whole._replace(**changes)


@pytest.fixture(autouse=True)
def nothing_planned(in_folder):
    """No earlier plan."""


def test_each_job_has_a_row_and_the_sums_follow():
    lines = command.text(plan(job("sft/sft_lora", serves=3), job("eval/sft_lora"), saved=120.0), 120).splitlines()
    assert lines[2].split("  ")[0] == "sft sft_lora (for 3)" and lines[2].endswith("sft of sft_lora, 2 jobs")
    assert lines[5:] == [
        "2 jobs: 2 min one after another (60 s to 4 min).",
        "Memory: 2 GB at most, of 10 GB on this machine.",
        "Disk: 1 GB, at most 2 GB at once, of 100 GB that are free.",
        "Energy: 2 Wh (60 W, as cost.watts says).",
        "Money: 0.07 EUR, at 2 an hour.",
        "Shared: what several results need is built once, which saves 2 min.",
        "There already: data/chats.",
        "Times: 2 by record.",
    ]


def test_what_does_not_fit_is_said():
    text = command.text(plan(job("sft/a", memory=2e10), free=10**9), 120)
    assert "Memory: 20 GB at most, of 10 GB on this machine. This does not fit." in text
    assert "at most 1.5 GB at once, of 1 GB that are free. This does not fit." in text


def test_jobs_of_a_base_of_unknown_size_are_named_and_not_counted():
    text = command.text(plan(job("data/chats"), job("base/new", UNKNOWN, memory=None)), 80)
    assert "Not counted, as the base's size is not known before it is built: base/new." in text
    assert "2 jobs: 60 s one after another" in text


def test_hundreds_of_jobs_are_a_row_for_each_rule():
    lines = command.text(plan(*(job(f"dpo/dpo_lora,rank={i}") for i in range(1, 101))), 80).splitlines()
    assert lines[2].split() == [
        "dpo",
        "100",
        "100",
        "min",
        "50",
        "min",
        "-",
        "3",
        "h",
        "20",
        "min",
        "2",
        "GB",
        "50",
        "GB",
    ]


def test_nothing_is_wider_than_a_narrow_terminal():
    long = job(f"tokens/smollm2/a_dataset_with_a_long_name,max_length=1024{',x=1' * 20}")
    assert max(map(len, command.text(plan(long, job("sft/sft_lora")), 80).splitlines())) <= 80


def test_where_nothing_is_to_be_done_it_says_so():
    assert command.text(plan(), 80) == "nothing: results/x/eval.json is up to date"
