"""How stages, times and reasons are told."""

import pytest

from snakemake_logger_plugin_posttrain import words


@pytest.mark.parametrize(
    ("rule", "wildcards", "name"),
    [
        ("sft", {"run": "sft_lora,rank=4"}, "sft sft_lora,rank=4"),
        ("data", {"dataset": "chats"}, "data chats"),
        (
            "tokens",
            {"base": "tiny", "dataset": "chats", "max_length": "64", "trained": ",train_thoughts=false"},
            "tokens chats,train_thoughts=false for tiny",
        ),
        (
            "logprobs",
            {"run": "sft", "dataset": "pairs", "max_length": "64", "form": ""},
            "logprobs pairs by sft",
        ),
        ("report", {}, "report"),
    ],
)
def test_a_job_is_named_by_its_rule_and_what_it_is_about(rule, wildcards, name):
    assert words.name(rule, wildcards) == name


@pytest.mark.parametrize(
    ("seconds", "told"), [(0.4, "0:00"), (59.6, "1:00"), (3599, "59:59"), (3661, "1:01:01"), (-1, "0:00")]
)
def test_a_time(seconds, told):
    assert words.clock(seconds) == told


BUILT = ["results/a/trained", "results/a/train.json"]


@pytest.mark.parametrize(
    ("reason", "built", "told"),
    [
        ("Missing output files: results/a/train.json; Input files updated by another job: x", False, "not built yet"),
        ("Missing output files: results/a/train.json", True, "results/a/train.json is missing"),
        ("Missing output files: p, q, r", True, "p and 2 more are missing"),
        ("Updated input files: results/a/spec.json", True, "its settings have changed"),
        ("Input files updated by another job: results/b/model, results/a/spec.json", True, "its settings have changed"),
        ("Input files updated by another job: results/b/model", True, "what it is made from is built again"),
        ("Updated input files: rows.jsonl", True, "rows.jsonl is newer"),
        ("Code has changed since last execution", True, "its command has changed"),
        ("A reason of a later version", True, "A reason of a later version"),
    ],
)
def test_a_reason_in_a_few_words(in_folder, reason, built, told):
    if built:
        (in_folder / BUILT[0]).mkdir(parents=True)
    assert words.briefly(reason, BUILT) == told
