"""A teacher is part of the graph: of the spec, the licences, the comparison; so are the model that writes rows and a base's whole."""

import json

import pytest
from conftest import refused

from posttrain.workflow.project import Project

DISTILL = {"from": "small", "objective": "distill", "data": "chats", "teacher": "sft,rank={rank}", "rank": 6}
VALUES = {
    "bases.big": {"source": "hub", "model": "a/b", "licence": "llama3"},
    "bases.small": {"source": "pruned", "of": "big", "drop": [1]},
    "datasets.said": {"from": "chats", "generated": {"by": "big"}},
    "runs.small": ...,
    "runs.taught": DISTILL,
    "runs.on_said": {"from": "base", "objective": "sft", "data": "said"},
}


@pytest.fixture
def project(configuration):
    changes = {key: value for key, value in VALUES.items() if value is not ...}
    return lambda more=None: Project(configuration(changes | (more or {})))


def test_a_teacher_is_in_the_spec_by_its_own_spec(project):
    graph = project()
    assert graph.run("taught").teacher == "sft,rank=6"
    spec = json.loads(graph.spec("taught"))
    assert spec["teacher"] == {"name": "sft,rank=6", "spec": graph.spec_hash("sft,rank=6")}
    assert "max_new_tokens" not in spec and "teacher_top_k" not in spec
    assert json.loads(graph.spec("taught,rank=4"))["teacher"]["name"] == "sft,rank=4"
    assert "teacher" not in json.loads(graph.spec("sft"))


def test_a_run_is_compared_with_its_teacher_too(project):
    assert project().graph.others("taught") == ["small", "sft,rank=6"]


def test_licences_of_teachers_writers_and_whole_bases_count(project):
    graph = project().graph
    assert graph.licences(graph.names.run("taught"))["bases.big"] == "llama3"
    assert graph.chains(graph.names.run("taught"))["bases.big"] == ["bases.small", "taught"]
    assert graph.licences(graph.names.run("on_said"))["bases.big"] == "llama3"
    assert (graph.teachers("on_said"), graph.teachers("sft"), graph.origin("taught")) == (["big"], [], "big")


def test_stored_tokens_are_shared_and_named_for_what_they_depend_on(project):
    graph = project({"runs.taught": DISTILL | {"teacher_top_k": 16}})
    folder = "results/sft,rank=6/topk/chats,max_length=1024,k=16"
    assert graph.topk("taught") == graph.topk("taught,beta=0.5,learning_rate=0.001,seed=1") == folder
    assert graph.topk("taught,temperature=2,precision=fp32") == f"{folder},fp32,temperature=2"
    assert project().topk("taught") is None


REFUSED = [
    ({"runs.taught": {"from": "small", "objective": "distill", "data": "chats"}}, "missing-key", "runs.taught.teacher"),
    ({"runs.taught": DISTILL | {"teacher": "nobody"}}, "unknown-name", "runs.taught.teacher"),
    ({"runs.taught": DISTILL | {"teacher": "taught"}}, "cyclic-reference", "runs.taught"),
    ({"runs.taught": DISTILL | {"beta": 1.5}}, "invalid-value", "runs.taught.beta"),
    (
        {"runs.taught": DISTILL | {"teacher_top_k": 4, "on_policy_share": 0.5}},
        "conflicting-keys",
        "runs.taught.on_policy_share",
    ),
    ({"runs.taught": DISTILL | {"max_new_tokens": 8}}, "key-without-effect", "runs.taught.max_new_tokens"),
    ({"bases.small": {"source": "pruned", "of": "big", "drop": 1}}, "missing-key", "bases.small.data"),
    ({"bases.small": {"source": "pruned", "of": "small", "drop": [1]}}, "cyclic-reference", "bases.small.of"),
    (
        {"bases.small": {"source": "pruned", "of": "big", "drop": 1, "data": "said"}},
        "invalid-value",
        "bases.small.data",
    ),
    ({"datasets.said": {"from": "chats", "generated": {"by": "nobody"}}}, "unknown-name", "datasets.said.generated.by"),
    ({"datasets.said": {"path": "x.jsonl", "generated": {"by": "big"}}}, "missing-key", "datasets.said.from"),
]


@pytest.mark.parametrize(("changes", "code", "place"), REFUSED, ids=[place for _, _, place in REFUSED])
def test_what_cannot_be_is_refused(project, changes, code, place):
    with refused(code, place):
        project(changes)
