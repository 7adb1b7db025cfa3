"""The fields of TRL's and PEFT's configurations, and those that a run's own keys set."""

import pytest
from conftest import refused

from posttrain.config import library_fields
from posttrain.config.library_fields import OWN_PEFT_FIELDS, OWN_TRAINER_FIELDS, peft_fields, trainer_fields
from posttrain.config.runs import Run
from posttrain.config.trainer_args import IGNORED
from posttrain.methods import METHODS
from posttrain.objectives import OBJECTIVES
from posttrain.workflow.project import Project

TABLE = {"from": "base", "objective": "sft", "data": "chats"}
BY_TRL = [name for name, row in OBJECTIVES.items() if row.trl_config]
BY_PEFT = [name for name, row in METHODS.items() if row.peft_config]


@pytest.mark.parametrize("method", BY_PEFT)
def test_field_of_peft_that_a_key_sets_is_refused(configuration, method):
    own = OWN_PEFT_FIELDS & peft_fields(method)
    assert {"task_type", "peft_type"} <= own
    for field in own:
        with refused("conflicting-keys", f"runs.own.peft_args.{field}"):
            Project(configuration({"runs.own": TABLE | {"method": method, "peft_args": {field: 1}}}))


@pytest.mark.parametrize("objective", BY_TRL)
def test_field_of_the_trainer_that_a_key_sets_is_refused(configuration, objective):
    row = OBJECTIVES[objective]
    fits = {"messages": "chats", "preference": "pairs", "text": "texts", "labelled_text": "labelled"}
    table = TABLE | {"objective": objective, "data": next(name for kind, name in fits.items() if kind in row.data)}
    table |= {"reward": {"function": "final_number"}} if row.on_policy else {}
    table |= {"teacher": "base"} if row.teacher else {}
    for field in OWN_TRAINER_FIELDS & trainer_fields(objective):
        with refused("conflicting-keys", f"runs.own.trainer_args.{field}"):
            texts = {"datasets.texts": {"path": "texts.jsonl", "format": "text"}}
            texts |= {"datasets.labelled": {"path": "labelled.jsonl", "format": "labelled_text"}}
            Project(configuration(texts | {"runs.own": table | {"trainer_args": {field: 1}}}))


def test_no_field_of_the_trainer_changes_what_a_key_of_the_same_name_says():
    same = frozenset().union(*map(trainer_fields, BY_TRL)) & Run.model_fields.keys()
    assert same - {"alpha"} <= {*OWN_TRAINER_FIELDS, *IGNORED}  # alpha is LoRA's here


def test_unknown_field_has_a_hint(configuration):
    with refused("unknown-key", "runs.own.trainer_args.padding_fred") as error:
        Project(configuration({"runs.own": TABLE | {"trainer_args": {"padding_fred": 1}}}))
    assert error.value.hint == "did you mean 'padding_free'?"


def test_own_fields_exist_in_the_installed_trl():
    assert frozenset().union(*map(trainer_fields, BY_TRL)) >= OWN_TRAINER_FIELDS
    assert {"packing", "learning_rate"} <= trainer_fields("sft")
    assert {"beta", "label_smoothing"} <= trainer_fields("dpo")
    assert "beta" not in trainer_fields("sft")


def test_fields_of_a_method_are_read_from_the_installed_peft():
    assert {"r", "use_rslora", "modules_to_save"} <= peft_fields("lora")
    assert {"target_r", "tinit", "use_rslora", "modules_to_save"} <= peft_fields("adalora")
    assert "use_rslora" not in peft_fields("ia3")


def test_trainer_and_method_of_our_own_have_no_fields():
    assert not library_fields.trainer_fields("ppo")
    assert not library_fields.peft_fields("full") | library_fields.peft_fields("adapter")
