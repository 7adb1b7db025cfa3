"""Keys may be written in two spellings everywhere; specs and folders keep their names."""

import json

import pytest
from conftest import refused

from posttrain.config import aliases, project_file
from posttrain.config.evaluation import GenerationSuite, TasksSuite
from posttrain.config.fields import keys_of
from posttrain.config.loading import read, validate
from posttrain.config.runs import Run
from posttrain.workflow.project import Project

TABLE = {"from": "base", "objective": "sft", "data": "chats"}


def test_every_alias_leads_to_a_key_and_is_none():
    assert set(aliases.OF_RUN.values()) <= set(keys_of(Run))
    assert not aliases.OF_RUN.keys() & set(keys_of(Run))
    assert set(aliases.SUITE) <= {*keys_of(GenerationSuite), *keys_of(TasksSuite)}


@pytest.mark.parametrize(
    ("other", "key"), [("accumulation", "gradient_accumulation_steps"), ("num_train_epochs", "epochs")]
)
def test_both_spellings_in_the_file_are_one_key(other, key):
    one, two = (validate(Run, TABLE | {name: 2}) for name in (other, key))
    assert one == two
    assert getattr(one, key) == 2
    with refused("conflicting-keys", f"runs.sft.{key}"):
        validate(Run, TABLE | {other: 2, key: 2}, "runs.sft")


def test_specs_keep_the_names_of_finished_results():
    keys = {
        "gradient_accumulation_steps": 2,
        "warmup_ratio": 0.2,
        "lr_scheduler_type": "linear",
        "neftune_noise_alpha": 5,
    }
    settings = validate(Run, TABLE | keys).settings()
    assert {name: settings[name] for name in ("accumulation", "warmup", "schedule", "neftune")} == {
        "accumulation": 2, "warmup": 0.2, "schedule": "linear", "neftune": 5.0,
    }  # fmt: skip
    assert not keys.keys() & settings.keys()


def test_licence_has_two_spellings(configuration):
    changes = {"bases.base.license": "mit", "datasets.chats.licence": "cc0-1.0"}
    config = read(configuration(changes))
    assert (config.bases["base"].licence, config.datasets["chats"].licence) == ("mit", "cc0-1.0")
    with refused("conflicting-keys", "bases.base.licence"):
        read(configuration({"bases.base.license": "mit", "bases.base.licence": "mit"}))


def test_suite_has_the_names_of_lm_eval(configuration):
    tasks = {"kind": "tasks", "tasks": ["arc_easy"], "num_fewshot": 3, "apply_chat_template": False}
    old = {"kind": "tasks", "tasks": ["arc_easy"], "shots": 3, "chat": False}
    new, before = (
        read(configuration({"evaluation.suites": {"x": suite}})).evaluation.suites["x"] for suite in (tasks, old)
    )
    assert new == before


def test_suite_keeps_its_names_in_specs(configuration):
    suite = {"kind": "generation", "data": "chats", "num_fewshot": 2}
    spec = json.loads(Project(configuration({"evaluation.suites": {"x": suite}})).spec("sft/eval"))
    assert spec["suites"]["x"]["shots"] == 2
    assert "num_fewshot" not in spec["suites"]["x"]


@pytest.mark.parametrize("file", ["accumulation", "gradient_accumulation_steps"])
@pytest.mark.parametrize("override", ["accumulation", "gradient_accumulation_steps"])
def test_override_in_either_spelling_is_the_same_folder(configuration, file, override):
    project = Project(configuration({f"runs.sft.{file}": 2}))
    node = project.run(f"sft,{override}=4")
    assert (node.name, node.run.gradient_accumulation_steps) == ("sft,accumulation=4", 4)
    assert project.run(f"sft,{override}=2").name == "sft"


def test_folder_sorts_its_overrides_by_their_names_in_specs(configuration):
    project = Project(configuration())
    assert project.run("sft,seed=1,lr_scheduler_type=linear").name == "sft,schedule=linear,seed=1"
    assert project.run("sft,warmup_ratio=0.2,accumulation=2,alpha=3").name == "sft,accumulation=2,alpha=3,warmup=0.2"


def test_both_spellings_in_a_target_are_refused(configuration):
    with refused("conflicting-keys", "results/sft,accumulation=2,gradient_accumulation_steps=4"):
        Project(configuration()).run("sft,accumulation=2,gradient_accumulation_steps=4")


@pytest.mark.parametrize("key", ["accumulation", "gradient_accumulation_steps"])
def test_parent_follows_in_either_spelling(configuration, key):
    project = Project(configuration({"runs.follow.from": f"sft,{key}={{{key}}}"}))
    assert project.run("follow,gradient_accumulation_steps=4").parent == "sft,accumulation=4"


def test_sweep_in_either_spelling_is_the_same(configuration):
    found = []
    for key in ("accumulation", "gradient_accumulation_steps"):
        project = Project(configuration({"sweeps.own": {"run": "sft", "over": {key: [1, 2]}}}))
        found.append(project.names.sweep_points("own"))
    assert found[0] == found[1]
    assert found[0][1] == ("sft,accumulation=2", {"gradient_accumulation_steps": 2})
    both = {"accumulation": [1], "gradient_accumulation_steps": [2]}
    with refused("conflicting-keys"):
        Project(configuration({"sweeps.own": {"run": "sft", "over": both}}))


def test_editors_accept_other_spellings_as_deprecated():
    definitions = project_file.Config.model_json_schema()["$defs"]
    run = definitions["Run"]["properties"]
    assert run["accumulation"] == {
        "type": "integer", "description": "the same as `gradient_accumulation_steps`", "deprecated": True,
    }  # fmt: skip
    assert not {key for key, value in run.items() if not value.get("deprecated")} & aliases.OF_RUN.keys()
