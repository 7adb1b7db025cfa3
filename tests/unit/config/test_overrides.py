"""Overrides in a run's name: lists, tables, keys that exclude each other, and what a sweep may vary."""

import pytest
from conftest import refused
from hypothesis import given
from hypothesis import strategies as st

from posttrain.config import overrides
from posttrain.workflow.project import Project

WORDS = st.from_regex(r"[a-z_][a-z_0-9.]{0,8}[a-z_]", fullmatch=True).filter(
    lambda word: ".." not in word and word not in ("true", "false", "null", "yes", "no", "on", "off", "y", "n")
)
VALUES = st.none() | st.booleans() | st.integers(-(10**6), 10**6) | WORDS


@given(VALUES | st.lists(VALUES, min_size=1, max_size=4))
def test_a_name_says_the_value_that_was_written(value):
    written = overrides.text(value)
    if "e" in written and overrides.NUMBER.fullmatch(written):
        return  # a word such as 1e5 cannot be made by WORDS
    assert overrides.parsed(written) == value


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("q_proj+v_proj", ["q_proj", "v_proj"]),
        ("q_proj+", ["q_proj"]),
        ("1+0.5", [1, 0.5]),
        ("1e-4+2e-4", [1e-4, 2e-4]),
        ("+5", 5),
        ("1.0e+5", 1e5),
        ("model.layers.0+", ["model.layers.0"]),
    ],
)
def test_a_list_is_written_with_plus(written, value):
    assert overrides.parsed(written) == value


@pytest.mark.parametrize("written", ["a++b", "+", "+a", "2024-13-01"])
def test_an_empty_item_is_no_value(written):
    with pytest.raises(ValueError):
        overrides.parsed(written)


@pytest.fixture
def project(configuration):
    """The project of the small configuration with changes."""
    return lambda changes=None: Project(configuration(changes), "my.yaml")


def names(project, changes: dict, sweep: dict) -> list[str]:
    changes = {f"runs.sft.{key}": value for key, value in changes.items()}
    return project(changes | {"sweeps.own": {"run": "sft"} | sweep}).sweep_runs("own")


def test_a_sweep_varies_lists_and_tables(project):
    over = {"target_modules": [["q_proj"], ["q_proj", "v_proj"], "all-linear"]}
    assert names(project, {}, {"over": over}) == [
        "sft,target_modules=q_proj+", "sft,target_modules=q_proj+v_proj", "sft",
    ]  # fmt: skip
    tables = {"peft_args": [{}, {"use_dora": True}, {"use_dora": True, "layers_to_transform": [0, 1]}]}
    found = project({"runs.sft.target_modules": ["q_proj"], "sweeps.own": {"run": "sft", "over": tables}})
    assert found.names.sweep_points("own") == [
        ("sft", {}),
        ("sft,peft_args.use_dora=true", {"peft_args.use_dora": True}),
        (
            "sft,peft_args.layers_to_transform=0+1,peft_args.use_dora=true",
            {"peft_args.use_dora": True, "peft_args.layers_to_transform": "0+1"},
        ),
    ]
    run = found.run("sft,peft_args.layers_to_transform=0+1,peft_args.use_dora=true").run
    assert run.peft_args == {"layers_to_transform": [0, 1], "use_dora": True}
    assert found.run("sft,target_modules=q_proj+").run.target_modules == ["q_proj"]


def test_a_table_in_a_sweep_stands_for_the_whole_table(project):
    before = {"peft_args": {"use_rslora": True}}
    tables = [{"use_rslora": True}, {"use_dora": True}, {}]
    graph = project(
        {"runs.sft.peft_args": before["peft_args"], "sweeps.own": {"run": "sft", "over": {"peft_args": tables}}}
    )
    runs = [graph.run(name).run.peft_args for name in graph.sweep_runs("own")]
    assert runs == tables
    assert graph.sweep_runs("own")[2] == "sft,peft_args.use_rslora=default"


def test_one_module_in_a_target_is_a_list_of_one(project):
    assert project().run("sft,target_modules=q_proj").name == "sft,target_modules=q_proj+"
    assert project().run("sft,target_modules=all-linear").name == "sft"


def test_null_is_a_value_and_default_takes_a_value_out(project):
    stopping = {"runs.sft.early_stopping": {"metric": "loss", "patience": 5}}
    run = {
        value: project(stopping).run(f"sft,early_stopping.patience={value}").run for value in ("null", "default", "2")
    }
    assert {value: own.early_stopping.patience for value, own in run.items()} == {"null": None, "default": 3, "2": 2}
    tables = [{"metric": "loss"}, {"metric": "loss", "patience": None}, None]
    graph = project(stopping | {"sweeps.own": {"run": "sft", "over": {"early_stopping": tables}}})
    found = [graph.run(name).run.early_stopping for name in graph.sweep_runs("own")]
    assert [own and own.patience for own in found] == [3, None, None]
    assert graph.sweep_runs("own") == [
        "sft,early_stopping.patience=default", "sft,early_stopping.patience=null", "sft,early_stopping=null",
    ]  # fmt: skip
    assert project().run("sft,rank=default").name == "sft,rank=16"


def test_a_grid_of_a_tables_keys(project):
    assert names(project, {}, {"over": {"peft_args.use_dora": [False, True], "rank": [4]}}) == [
        "sft,peft_args.use_dora=false,rank=4", "sft,peft_args.use_dora=true,rank=4",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("key", "value", "code", "place"),
    [
        ("target_modules", r".*q_proj", "invalid-override", "sweeps.own.over.target_modules"),
        ("target_modules", [], "invalid-override", "sweeps.own.over.target_modules"),
        ("learning_rates", {"layers.1": 1e-3}, "invalid-override", "sweeps.own.over.learning_rates.'layers.1'"),
        ("target_modules", [["q_proj"]], "invalid-override", "sweeps.own.over.target_modules"),
        ("loss_type", ["a+b"], "invalid-override", "sweeps.own.over.loss_type"),
        (
            "trainer_args",
            {"torch_compile_mode": "default"},
            "invalid-override",
            "sweeps.own.over.trainer_args.torch_compile_mode",
        ),
        ("peft_args", {"rank pattern": 3}, "invalid-override", "sweeps.own.over.peft_args.rank pattern"),
        ("allow", ["overlap"], "invalid-override", "sweeps.own (sft,allow=overlap+)"),
        ("rank", {"x": 3}, "invalid-value", "sweeps.own (sft,rank.x=3): rank"),
        (
            "peft_args",
            {"use_dorra": True},
            "unknown-key",
            "sweeps.own (sft,peft_args.use_dorra=true): peft_args.use_dorra",
        ),
    ],
    ids=str,
)
def test_what_a_sweep_cannot_vary_is_refused_at_the_sweep(project, key, value, code, place):
    with refused(code, place) as error:
        names(project, {}, {"over": {key: [value]}})
    assert "OrderedDict" not in str(error.value)


TARGETS = [
    ("sft,rank", "invalid-override"),
    ("sft,rank=a b", "invalid-override"),
    ("sft,rank=4,rank=8", "conflicting-keys"),
    ("sft,objective=dpo", "invalid-override"),
    ("sft,from=base", "invalid-override"),
    ("sft,allow=overlap", "invalid-override"),
    ("sft,rnk=4", "unknown-key"),
    ("sft,rank=2024-13-01", "invalid-override"),
    ("sft,peft_args.=4", "invalid-override"),
]


@pytest.mark.parametrize(("target", "code"), TARGETS)
def test_override_is_refused_at_the_target(project, target, code):
    with refused(code, f"results/{target}"):
        project().run(target)


@pytest.mark.parametrize(
    ("file", "override", "steps", "epochs", "name"),
    [
        ({"epochs": 2}, "max_steps=5", 5, 1.0, "sft,max_steps=5"),
        ({"epochs": 2}, "max_steps=null", None, 2.0, "sft"),
        ({"max_steps": 5}, "epochs=1", None, 1.0, "sft,epochs=1"),
        ({"max_steps": 5}, "epochs=2,max_steps=null", None, 2.0, "sft,epochs=2"),
        ({"max_steps": 5}, "max_steps=5", 5, 1.0, "sft"),
    ],
)
def test_an_override_of_steps_or_epochs_wins_over_the_files_other_one(project, file, override, steps, epochs, name):
    node = project({f"runs.sft.{key}": value for key, value in file.items()}).run(f"sft,{override}")
    assert (node.run.max_steps, node.run.epochs, node.name) == (steps, epochs, name)


def test_both_as_overrides_are_refused(project):
    with refused("conflicting-keys", "results/sft,epochs=2,max_steps=5: max_steps"):
        project().run("sft,epochs=2,max_steps=5")


def test_a_parent_follows_a_list(project):
    graph = project({"runs.follow.from": "sft,target_modules={target_modules}"})
    assert graph.run("follow,target_modules=q_proj+v_proj").parent == "sft,target_modules=q_proj+v_proj"
    with refused("invalid-value", "runs.follow.from"):
        project({"runs.follow.from": "sft,peft_args={peft_args}"})


def test_a_reward_can_be_swept(project):
    changes = {
        "runs.grpo": {"from": "sft", "objective": "grpo", "data": "chats", "reward": {"function": "final_number"}}
    }
    graph = project(
        changes | {"sweeps.own": {"run": "grpo", "over": {"reward.function": ["final_number", "answer_format"]}}}
    )
    assert graph.sweep_runs("own") == ["grpo", "grpo,reward.function=answer_format"]
    assert graph.run("grpo,reward.function=answer_format").run.reward.function == "answer_format"
