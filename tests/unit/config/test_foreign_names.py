"""Keys under other tools' names lead to the key that is meant."""

import re

import pytest
import yaml

from posttrain.config import foreign_names, schema
from posttrain.config.schema import Run, keys_of
from posttrain.runtime.errors import UserError
from posttrain.workflow.project import Project

MEANT = [
    ("runs.sft.lr", "unknown key 'lr'; write learning_rate"),
    ("runs.sft.num_train_epochs", "write epochs"),
    ("runs.sft.lora_r", "write rank"),
    ("runs.sft.per_device_train_batch_size", "write batch_size, the examples of an optimiser step in all"),
    ("runs.sft.cutoff_len", "write max_length, which counts a prompt and its answer together"),
    ("runs.sft.load_in_4bit", "write method: qlora"),
    ("runs.sft.output_dir", "'output_dir'; take it out: results are under results/"),
    ("runs.sft.early_stopping_patience", "write early_stopping: {metric: NAME, patience: NUMBER}"),
    ("runs.sft.report_to", "write tracking: {also: [tensorboard, wandb, trackio]}"),
    ("runs.sft.adam_beta2", "write trainer_args: {adam_beta2: ...}"),
    ("runs.sft.push_to_hub", "training runs without the hub"),
    ("runs.sft.use_dora", "write peft_args: {use_dora: ...}"),
    ("runs.sft.columns", "it belongs to a dataset under datasets:"),
    ("runs.sft.val_set_size", "write validation, a share or a file, at the dataset"),
    ("runs.sft.zzzz", "valid are from, objective, method, data, seed, learning_rate, epochs, max_steps"),
    ("runs.sft.learning_rat", "did you mean 'learning_rate'?"),
    ("datasets.chats.license", "write licence"),
    ("datasets.chats.prompt", "write columns: {prompt: NAME, completion: NAME}"),
    ("datasets.chats.epochs", "it belongs to a run under runs:"),
    ("bases.base.model_name_or_path", "write model, the hub id, beside source: hub"),
    ("evaluation.tasks", "write suites: {NAME: {kind: tasks, tasks: [NAME]}}"),
    ("tracking.wandb", "write also: [tensorboard, wandb, trackio]"),
    ("sweeps.rank.parameters", "write over: {KEY: [VALUE, VALUE]}"),
    ("model", "'model'; write bases"),
    ("lr", "'lr'; in a run under runs:, write learning_rate"),
    ("epochs", "'epochs'; it belongs to a run under runs:"),
]


@pytest.mark.parametrize(("place", "said"), MEANT)
def test_a_foreign_key_leads_to_ours(configuration, place, said):
    with pytest.raises(UserError) as error:
        Project(configuration({place: 1}))
    assert said in str(error.value)


def test_a_foreign_key_in_a_target(configuration):
    with pytest.raises(UserError, match="results/sft,lr=1e-4: a run has no key 'lr'; write learning_rate"):
        Project(configuration()).run("sft,lr=1e-4")


def test_no_key_of_ours_is_taken_for_a_foreign_one():
    for table, model in {"runs": Run, **schema.TABLES}.items():
        assert not foreign_names.TABLES.get(table, {}).keys() & set(keys_of(model)), table
    for model in schema.BASES.values():
        assert not foreign_names.BASE.keys() & set(keys_of(model))


LATER = {
    "early_stopping",
    "keep",
    "packing",
    "neftune",
    "freeze",
    "system",
    "also",
}  # keys that come with other changes


def test_what_is_to_be_written_is_a_key():
    tables = {
        "runs": [
            *keys_of(Run),
            "tracking",
            "evaluation",
            "chat_template",
            "chat_template_kwargs",
            "system",
            "validation",
            "limit",
        ]
    }
    tables |= {"datasets": [*keys_of(schema.Dataset), "chat_template", "weight"], "sweeps": keys_of(schema.Sweep)}
    tables |= {"evaluation": keys_of(schema.Evaluation), "": keys_of(schema.Config)}
    for table, known in tables.items():
        for said in set(foreign_names.TABLES[table].values()):
            if not said.startswith("take it out") and said != "the base's own name in from: NAME":
                assert re.match(r"\w+", said)[0] in known, said


def test_what_is_written_for_tables_is_yaml():
    for said in set(foreign_names.RUN.values()):
        if re.match(r"\w+: \{", said):
            assert isinstance(yaml.safe_load(said.partition(" at the ")[0].partition(" or {")[0]), dict)
