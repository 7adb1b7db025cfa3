"""Snakemake's reasons in the user's words: which setting or file is the cause, and what follows only from that."""

import json
from pathlib import Path

import pytest
import yaml

from posttrain.provenance import explain
from posttrain.provenance.changes import differences, told
from posttrain.provenance.dry_run import Job
from posttrain.runtime.atomic import write_json
from posttrain.runtime.errors import UserError
from posttrain.workflow import paths
from posttrain.workflow.project import Project

PLANNED = [
    Job("spec", ["results/sft/spec.json"], "Params have changed since last execution: before: '{1; 2}' now: '{}'"),
    Job(
        "preflight",
        ["results/sft/preflight.json", "results/sft/preflight.txt"],
        "Input files updated by another job: results/sft/spec.json",
    ),
    Job(
        "sft",
        ["results/sft/trained", "results/sft/train.jsonl", "results/sft/train.json"],
        "Input files updated by another job: results/sft/preflight.json, results/sft/spec.json",
    ),
    Job(
        "dpo",
        ["results/dpo/trained"],
        "Missing output files: results/dpo/trained; Input files updated by another job: results/sft/merge.json",
    ),
]


@pytest.fixture
def changed(in_folder, configuration) -> Project:
    """A project whose sft was built with rank 8, and the configuration that says 16."""
    Path("results/sft").mkdir(parents=True)
    Path("results/sft/spec.json").write_text(Project(configuration()).spec("sft"))
    return Project(configuration({"runs.sft.rank": 16, "runs.sft.alpha": 16}))


def job(rule: str, output: str, reason: str) -> Job:
    return Job(rule, [output], reason)


def because(project: Project, *jobs: Job) -> list[str]:
    return [cause for change in explain.explain(project, list(jobs)) for cause in change.because]


def test_a_changed_setting_is_named_with_both_values_and_its_child_names_the_parent(changed):
    assert "\n".join(map(str, explain.explain(changed, PLANNED))) == (
        "sft is checked and trained, because\n"
        "    rank: 8 -> 16\n"
        "dpo is trained, because\n"
        "    it is not built yet\n"
        "    sft is built again"
    )


def test_a_parent_that_was_built_again_alone_is_the_cause(changed, configuration):
    Path("results/dpo").mkdir()
    Path("results/dpo/spec.json").write_text(Project(configuration()).spec("dpo"))
    Path("results/sft/spec.json").write_text(changed.spec("sft"))
    reason = "Params have changed since last execution: before and now"
    jobs = [
        job("spec", "results/dpo/spec.json", reason),
        job("dpo", "results/dpo/trained", "Updated input files: results/dpo/spec.json"),
    ]
    assert because(changed, *jobs) == ["sft was built again after it"]


def test_a_file_that_is_gone_is_named(changed):
    reason = "Missing output files: results/sft/eval.json"
    Path("results/sft/eval").mkdir()
    Path("results/sft/eval/spec.json").write_text("{}")
    assert because(changed, job("eval", "results/sft/eval.json", reason)) == ["results/sft/eval.json is not there"]


def test_a_newer_file_is_named(changed):
    reason = "Updated input files: chats.jsonl, more.jsonl"
    assert because(changed, job("data", "results/data/chats/train.parquet", reason)) == [
        "chats.jsonl is newer",
        "more.jsonl is newer",
    ]


def test_a_spec_that_is_newer_than_its_result_is_compared_with_the_results_own_record(changed, configuration):
    reason = "Updated input files: results/sft/spec.json"
    before = json.loads(Path("results/sft/spec.json").read_text())
    Path("results/sft/spec.json").write_text(changed.spec("sft"))  # a preflight that failed left it
    assert because(changed, job("sft", "results/sft/trained", reason)) == [
        "its settings were changed, and it was not built since"
    ]
    write_json(Path("results/sft/provenance.json"), {"settings": before})
    assert because(changed, job("sft", "results/sft/trained", reason)) == ["rank: 8 -> 16"]


@pytest.mark.parametrize("kind", explain.REASONS)
def test_every_reason_of_snakemakes_has_words_of_ours(changed, kind):
    assert because(changed, job("sft", "results/sft/trained", f"{kind}: before and now")) == [explain.REASONS[kind]]


@pytest.mark.parametrize(
    ("file", "result"),
    [
        ("results/sft,rank=4/trained", "sft,rank=4"),
        ("results/sft/eval/examples.parquet", "sft/eval"),
        ("results/sft/eval.json", "sft/eval"),
        ("results/data/chats/overlap.json", "data/chats"),
        ("results/bases/base/model", "bases/base"),
        ("results/tokens/base/chats,max_length=64/train.parquet", "tokens/base/chats,max_length=64"),
        ("results/sft/logprobs/pairs,max_length=64.parquet", "sft/logprobs/pairs,max_length=64.parquet"),
        ("results/report.html", "results/report.html"),
        ("results/sft,beta=0.1/merge.json", "sft,beta=0.1"),
    ],
)
def test_files_belong_to_results(file, result):
    assert paths.owner(file) == result


@pytest.fixture
def planned(in_folder, configuration) -> tuple[Project, Path]:
    """A project with rows and nothing built, for Snakemake itself to plan."""
    for name in ("chats.jsonl", "pairs.jsonl", "held_out.jsonl"):
        Path(name).write_text("{}\n")
    Path("base").mkdir()
    file = Path("project.yaml")
    file.write_text(yaml.safe_dump(configuration()))
    return Project(configuration(), str(file)), file


def test_snakemake_itself_is_asked(planned):
    changes = explain.why(*planned[:1], "results/data/chats/data.json", planned[1])
    assert list(map(str, changes)) == ["data/chats is read, because\n    it is not built yet"]


def test_what_snakemake_refuses_is_told_in_one_sentence(planned):
    with pytest.raises(UserError, match=r"^results/sft,rnk=4: a run has no key 'rnk'; did you mean 'rank'\?$"):
        explain.why(*planned[:1], "sft,rnk=4", planned[1])


# ---- what differs in two specs


def said(before: dict, now: dict) -> list[str]:
    return told(differences(before, now))


def ref(name: str, spec: str) -> dict:
    return {"name": name, "spec": spec}


@pytest.mark.parametrize(
    ("before", "now", "words"),
    [
        ({"rank": 4}, {"rank": 4}, []),
        ({"rank": 4}, {"rank": 8}, ["rank: 4 -> 8"]),
        ({"trainer_args": {"a": 1}}, {"trainer_args": {"a": 1, "b": "x"}}, ["trainer_args.b: (none) -> x"]),
        ({"from": ref("sft", "0")}, {"from": ref("sft", "1")}, ["sft changes"]),
        ({"from": ref("sft", "0")}, {"from": ref("full", "1")}, ["from: sft -> full"]),
        ({"data": [ref("a", "0"), ref("b", "0")]}, {"data": [ref("a", "0"), ref("b", "1")]}, ["b changes"]),
        ({"data": [ref("a", "0")], "x": ref("a", "0")}, {"data": [ref("a", "1")], "x": ref("a", "1")}, ["a changes"]),
        ({"mix": [ref("a", "0") | {"weight": 1}]}, {"mix": [ref("a", "0") | {"weight": 2}]}, ["mix.weight: 1 -> 2"]),
        ({"version": 1}, {"version": 2}, ["this stage is version 2 of posttrain's now, was 1"]),
        ({"reward": {"sha256": ["0"]}}, {"reward": {"sha256": ["1"]}}, ["the file of its reward function has changed"]),
        ({"suites": {}}, {"suites": {"faq": {"kind": "reward", "data": ref("a", "0")}}}, ["suites.faq is new"]),
        ({"suites": {"faq": {"kind": "reward"}}}, {"suites": {}}, ["suites.faq is taken out"]),
        ({"data": [ref("a", "0")]}, {"data": [ref("a", "0"), ref("b", "1")]}, ['data: ["a"] -> ["a", "b"]']),
        ({"files": ["a"]}, {"files": ["a", "b"]}, ['files: ["a"] -> ["a", "b"]']),
        ({"text": "x"}, {"text": "y" * 99}, [f"text: x -> {'y' * 57}..."]),
    ],
)
def test_differences_are_told_in_the_words_of_the_configuration(before, now, words):
    assert said(before, now) == words


def test_a_run_is_not_built_because_its_evaluations_settings_are_written_first(changed):
    evaluation = job("eval", "results/dpo/eval.json", "Missing output files: results/dpo/eval.json")
    reason = "Missing output files: results/dpo/preflight.json; Input files updated by another job: results/dpo/eval/spec.json"
    assert because(changed, job("preflight", "results/dpo/preflight.json", reason)) == ["it is not built yet"]
    assert (
        because(changed, job("preflight", "results/dpo/preflight.json", reason), evaluation)
        == ["it is not built yet"] * 2
    )
