"""Keys under other tools' names lead to the key that is meant."""

import re

import pytest
import yaml
from conftest import refused

from posttrain.config import foreign_names
from posttrain.config.bases import BASES
from posttrain.config.fields import keys_of
from posttrain.config.messages import spellings
from posttrain.config.project_file import TABLES, Config
from posttrain.config.runs import Run
from posttrain.workflow.project import Project

MEANT = [
    ("runs.sft.lr", "write learning_rate"),
    ("runs.sft.num_epochs", "write epochs"),
    ("runs.sft.lora_r", "write rank"),
    ("runs.sft.per_device_train_batch_size", "write batch_size, the total number of examples per optimiser step"),
    ("runs.sft.cutoff_len", "write max_length, the length of a prompt together with its completion"),
    ("runs.sft.load_in_4bit", "write method: qlora"),
    ("runs.sft.output_dir", "remove it: results are under results/"),
    ("runs.sft.early_stopping_patience", "write early_stopping: {metric: NAME, patience: NUMBER}"),
    ("runs.sft.report_to", "write tracking: {also: [tensorboard, wandb, trackio]}"),
    ("runs.sft.adam_beta2", "write trainer_args: {adam_beta2: ...}"),
    ("runs.sft.push_to_hub", "upload results/RUN/model when it is there (training runs without the hub)"),
    ("runs.sft.use_dora", "write peft_args: {use_dora: ...}"),
    ("runs.sft.columns", "it belongs to a dataset under datasets:"),
    ("runs.sft.val_set_size", "write validation, a share or a file, at the dataset"),
    ("runs.sft.zzzz", "valid are from, objective, method, data, seed, learning_rate, epochs, max_steps"),
    ("runs.sft.learning_rat", "did you mean 'learning_rate'?"),
    (
        "runs.sft.grad_accum",
        "write gradient_accumulation_steps, the number of forward passes that batch_size is split into",
    ),
    ("datasets.chats.prompt", "write columns: {prompt: NAME, completion: NAME}"),
    ("datasets.chats.epochs", "it belongs to a run under runs:"),
    ("bases.base.model_name_or_path", "write model, the hub id, beside source: hub"),
    ("evaluation.tasks", "write suites: {NAME: {kind: tasks, tasks: [NAME]}}"),
    ("tracking.wandb", "write also: [tensorboard, wandb, trackio]"),
    ("sweeps.rank.parameters", "write over: {KEY: [VALUE, VALUE]}"),
    ("model", "write bases"),
    ("lr", "in a run under runs:, write learning_rate"),
    ("epochs", "it belongs to a run under runs:"),
]


@pytest.mark.parametrize(("place", "hint"), MEANT)
def test_foreign_key_leads_to_ours(configuration, place, hint):
    with refused("unknown-key", place) as error:
        Project(configuration({place: 1}))
    assert error.value.hint.startswith(hint)


def test_foreign_key_in_a_target(configuration):
    with refused("unknown-key", "results/sft,lr=1e-4") as error:
        Project(configuration()).run("sft,lr=1e-4")
    assert error.value.hint == "write learning_rate"


def test_no_key_of_ours_is_taken_for_a_foreign_one():
    for table, model in TABLES.items():
        assert not foreign_names.TABLES.get(table, {}).keys() & set(spellings(model)), table
    for model in BASES.values():
        assert not foreign_names.BASE.keys() & set(spellings(model))


def test_what_is_to_be_written_is_a_key():
    tables = {
        "runs": [
            *keys_of(Run),
            "tracking",
            "hardware",
            "evaluation",
            "chat_template",
            "chat_template_kwargs",
            "system",
            "validation",
            "limit",
        ]
    }
    tables |= {
        "datasets": [*keys_of(TABLES["datasets"]), "chat_template", "weight"],
        "sweeps": keys_of(TABLES["sweeps"]),
    }
    tables |= {"evaluation": keys_of(TABLES["evaluation"]), "": keys_of(Config)}
    for table, known in tables.items():
        for said in set(foreign_names.TABLES[table].values()):
            if not said.startswith("remove it") and said != "the base's own name in from: NAME":
                assert re.match(r"\w+", said)[0] in known, said


def test_what_is_written_for_tables_is_yaml():
    for said in set(foreign_names.RUN.values()):
        if re.match(r"\w+: \{", said):
            assert isinstance(yaml.safe_load(said.partition(" at the ")[0].partition(" or {")[0]), dict)
