"""What is refused when a configuration is read, with its code and its place."""

import math
from pathlib import Path

import pytest
import yaml
from conftest import refused

from posttrain.config.loading import joined, read, validate
from posttrain.config.runs import Run
from posttrain.runtime.errors import UserError

# change to the small configuration, code, place
REFUSED = [
    ({"rnus": {}}, "unknown-key", "rnus"),
    ({"bases.base.pth": "x"}, "unknown-key", "bases.base.pth"),
    ({"datasets.chats.colums": {}}, "unknown-key", "datasets.chats.colums"),
    ({"runs.sft.learning_rat": 1}, "unknown-key", "runs.sft.learning_rat"),
    ({"runs.sft.from_": "base"}, "unknown-key", "runs.sft.from_"),
    ({"sweeps.rank.ovr": {}}, "unknown-key", "sweeps.rank.ovr"),
    ({"evaluation": {"limt": 3}}, "unknown-key", "evaluation.limt"),
    ({"tracking": {"mlfow": True}}, "unknown-key", "tracking.mlfow"),
    ({"evaluation.suites": {"x": {"kind": "safety", "limt": 3}}}, "unknown-key", "evaluation.suites.x.limt"),
    ({"runs.sft.from": ...}, "missing-key", "runs.sft.from"),
    ({"runs.sft.data": ...}, "missing-key", "runs.sft.data"),
    ({"runs.sft.objective": ...}, "missing-key", "runs.sft.objective"),
    ({"bases.base.path": ...}, "missing-key", "bases.base.path"),
    ({"bases.base": {"source": "wheel"}}, "missing-key", "bases.base.package"),
    ({"sweeps.rank.run": ...}, "missing-key", "sweeps.rank.run"),
    ({"sweeps.rank.over": {}}, "missing-key", "sweeps.rank"),
    ({"evaluation.suites": {"x": {"data": "chats"}}}, "missing-key", "evaluation.suites.x.kind"),
    ({"evaluation.suites": {"x": {"kind": "reward", "data": "chats"}}}, "missing-key", "evaluation.suites.x.by"),
    (
        {"evaluation.suites": {"x": {"kind": "generation", "data": "chats", "metrics": ["regex"]}}},
        "missing-key",
        "evaluation.suites.x.pattern",
    ),
    ({"bases.base": {"path": "base"}}, "missing-key", "bases.base.source"),
    ({"datasets.chats.path": ...}, "missing-key", "datasets.chats"),
    ({"runs.sft.rank": "many"}, "invalid-value", "runs.sft.rank"),
    ({"runs.sft.rank": 4.5}, "invalid-value", "runs.sft.rank"),
    ({"runs.sft.rank": 0}, "invalid-value", "runs.sft.rank"),
    ({"runs.sft.batch_size": None}, "invalid-value", "runs.sft.batch_size"),
    ({"runs.sft.learning_rate": "fast"}, "invalid-value", "runs.sft.learning_rate"),
    ({"runs.sft.learning_rate": float("nan")}, "invalid-value", "runs.sft.learning_rate"),
    ({"runs.sft.dropout": 1}, "invalid-value", "runs.sft.dropout"),
    ({"runs.sft.warmup_ratio": 1.5}, "invalid-value", "runs.sft.warmup_ratio"),
    ({"runs.sft.seed": -1}, "invalid-value", "runs.sft.seed"),
    ({"runs.sft.gradient_checkpointing": "maybe"}, "invalid-value", "runs.sft.gradient_checkpointing"),
    ({"runs.sft.trainer_args": [1]}, "invalid-value", "runs.sft.trainer_args"),
    ({"runs.sft.target_modules": 3}, "invalid-value", "runs.sft.target_modules"),
    ({"runs.sft.objective": "dpoo"}, "invalid-value", "runs.sft.objective"),
    ({"runs.sft.method": "qlra"}, "invalid-value", "runs.sft.method"),
    ({"runs.sft.lr_scheduler_type": "cosin"}, "invalid-value", "runs.sft.lr_scheduler_type"),
    ({"use": "fun"}, "invalid-value", "use"),
    ({"evaluation": {"limit": 0}}, "invalid-value", "evaluation.limit"),
    ({"tracking": {"checkpoint_seconds": -1}}, "invalid-value", "tracking.checkpoint_seconds"),
    ({"evaluation.suites": {"x": {"kind": "perplexty"}}}, "invalid-value", "evaluation.suites.x.kind"),
    (
        {"evaluation.suites": {"x": {"kind": "generation", "data": "chats", "metrics": ["a.py:bleu"]}}},
        "invalid-value",
        "evaluation.suites.x.metrics",
    ),
    (
        {"evaluation.suites": {"x": {"kind": "generation", "data": "chats", "metrics": ["a.py:own", "b.py:own"]}}},
        "invalid-value",
        "evaluation.suites.x.metrics",
    ),
    (
        {"evaluation.suites": {"x": {"kind": "generation", "data": "chats", "metrics": ["regex"], "pattern": "(a"}}},
        "invalid-value",
        "evaluation.suites.x.pattern",
    ),
    ({"sweeps.rank.over": {"rank": 4}}, "invalid-value", "sweeps.rank.over.rank"),
    ({"bases.base": 3}, "invalid-value", "bases.base"),
    ({"bases.base": {"source": "wheell"}}, "invalid-value", "bases.base.source"),
    ({"bases.base": {"source": "wheel", "package": "name"}}, "invalid-value", "bases.base.package"),
    ({"bases.base": {"source": "wheel", "package": "name==1; rm -rf"}}, "invalid-value", "bases.base.package"),
    ({"bases.base": {"source": "hub", "model": "a/b/c"}}, "invalid-value", "bases.base.model"),
    ({"bases.base": {"source": "random", "text": "chats", "heads": 3}}, "invalid-value", "bases.base.hidden_size"),
    (
        {"bases.base": {"source": "random", "text": "chats", "vocab_size": 256}},
        "invalid-value",
        "bases.base.vocab_size",
    ),
    ({"datasets.chats.format": "preferences"}, "invalid-value", "datasets.chats.format"),
    ({"datasets.chats.validation": 0.95}, "invalid-value", "datasets.chats.validation"),
    ({"datasets.chats.validation": -1}, "invalid-value", "datasets.chats.validation"),
    ({"datasets.chats.limit": 0}, "invalid-value", "datasets.chats.limit"),
    ({"runs.sft.loss_type": "ipo"}, "invalid-value", "runs.sft.loss_type"),
    ({"runs": ["sft"]}, "invalid-value", "runs"),
    ({"runs.sft.data": "a/b"}, "invalid-name", "runs.sft.data"),
    ({"evaluation.suites": {"X": {"kind": "safety"}}}, "invalid-name", "evaluation.suites.X"),
    ({"runs.Sft": {}}, "invalid-name", "runs"),
    ({"runs": {True: {}}}, "invalid-name", "runs"),
    ({"bases": {"data": {}}}, "invalid-name", "bases"),
    ({"runs.logs": {}}, "invalid-name", "runs"),
    ({"runs.base": {}}, "invalid-name", "runs.base"),
    ({"sweeps.rank.points": [{"rank": 4}]}, "conflicting-keys", "sweeps.rank"),
    ({"datasets.chats.hub": "a/b"}, "conflicting-keys", "datasets.chats"),
    ({"runs.sft.gradient_accumulation_steps": 3}, "conflicting-keys", "runs.sft.gradient_accumulation_steps"),
    ({"runs.sft.epochs": 1, "runs.sft.max_steps": 3}, "conflicting-keys", "runs.sft.max_steps"),
    (
        {"evaluation.suites": {"x": {"kind": "generation", "data": "chats", "metrics": ["blue"]}}},
        "unknown-name",
        "evaluation.suites.x.metrics",
    ),
    ({"runs.sft.beta": 0.1}, "key-without-effect", "runs.sft.beta"),
    ({"runs.full.rank": 8}, "key-without-effect", "runs.full.rank"),
    ({"runs.full.alpha": 8}, "key-without-effect", "runs.full.alpha"),
    ({"runs.full.dropout": 0.1}, "key-without-effect", "runs.full.dropout"),
    ({"runs.full.target_modules": "all-linear"}, "key-without-effect", "runs.full.target_modules"),
    ({"runs.full.peft_args": {}}, "key-without-effect", "runs.full.peft_args"),
    ({"datasets.chats.columns": {"promt": "question"}}, "invalid-value", "datasets.chats.columns.promt"),
    ({"datasets.chats.limit": True}, "invalid-value", "datasets.chats.limit"),
    ({"bases.base": {"source": "wheel", "package": "--pre==1"}}, "invalid-value", "bases.base.package"),
    ({"datasets.chats": {"from": "pairs"}}, "missing-key", "datasets.chats.select"),
    ({"datasets.chats": {"mix": {"pairs": {}}, "limit": 3}}, "key-without-effect", "datasets.chats.limit"),
    ({"datasets.chats.system": " "}, "invalid-value", "datasets.chats.system"),
    ({"bases.base.new_tokens": ["<a>", "<a>"]}, "invalid-value", "bases.base.new_tokens"),
    ({"bases.base.date": "2025-1-1"}, "invalid-value", "bases.base.date"),
    ({"bases.base.chat_template_kwargs": {"messages": []}}, "conflicting-keys", "bases.base.chat_template_kwargs"),
    ({"runs.sft.rank": math.inf}, "invalid-value", "runs.sft.rank"),
    ({"runs.dpo.loss_type": "sigmoidd"}, "invalid-value", "runs.dpo.loss_type"),
]


@pytest.mark.parametrize(("changes", "code", "place"), REFUSED, ids=str)
def test_mistake_has_a_code_a_place_and_one_sentence(configuration, changes, code, place):
    with refused(code, place) as error:
        read(configuration(changes))
    assert str(error.value).startswith(f"{place}: ")
    assert "\n" not in str(error.value)
    assert "function-before" not in str(error.value)


# change, the end of the sentence
HINTS = [
    ({"rnus": {}}, "did you mean 'runs'?"),
    ({"runs.sft.from_": "base"}, "did you mean 'from'?"),
    ({"runs.sft.objective": "dpoo"}, "did you mean 'dpo'?"),
    ({"runs.sft.objective": "simpo"}, "write objective: cpo, loss_type: simpo"),
    ({"runs.sft.lr_scheduler_type": "cosin"}, "did you mean 'cosine'?"),
    ({"runs.sft.gradient_accumulation_step": 2}, "did you mean 'gradient_accumulation_steps'?"),
    ({"evaluation.suites": {"x": {"kind": "perplexty"}}}, "did you mean 'perplexity'?"),
    ({"bases.base": {"source": "wheell"}}, "did you mean 'wheel'?"),
    ({"datasets.chats.columns": {"promt": "question"}}, "did you mean 'prompt'?"),
    ({"runs.full.alpha": 8}, "it needs method: lora or qlora or adalora"),
]


@pytest.mark.parametrize(("changes", "hint"), HINTS, ids=str)
def test_hint_says_what_to_write(configuration, changes, hint):
    with pytest.raises(UserError) as error:
        read(configuration(changes))
    assert error.value.hint == hint


def test_place_of_a_table_is_joined_with_its_key():
    assert joined("runs.dpo", "beta") == "runs.dpo.beta"
    assert joined("results/dpo,beta=0", "beta") == "results/dpo,beta=0: beta"
    assert joined("", "use") == joined("use", "") == "use"


def test_run_is_validated_alone():
    values = {"from": "base", "objective": "sft", "data": "chats", "beta": 0.2}
    with refused("key-without-effect", "results/sft,beta=0.2: beta"):
        validate(Run, values, "results/sft,beta=0.2")


def test_small_configuration_and_an_empty_one_are_valid(configuration):
    assert list(read(configuration()).runs) == ["sft", "dpo", "follow", "full"]
    assert read({}).runs == {}
    assert read({"runs": None, "evaluation": None}).evaluation.limit == 100


@pytest.mark.parametrize("written", ["1e-4", "0.0001", "1.0e-4"])
def test_every_way_to_write_a_number_in_yaml_gives_that_number(configuration, written):
    values = configuration({"runs.sft.learning_rate": yaml.safe_load(written)})
    assert read(values).runs["sft"].learning_rate == 0.0001


def test_validation_is_a_share_or_a_file(configuration):
    assert read(configuration({"datasets.chats.validation": "2e-1"})).datasets["chats"].validation == 0.2
    assert read(configuration()).datasets["pairs"].validation == "held_out.jsonl"


@pytest.mark.parametrize("file", ["config/config.yaml", "config/test/tiny.yaml"])
def test_shipped_configurations_are_valid(file):
    repository = Path(__file__).resolve().parents[3]
    assert read(yaml.safe_load((repository / file).read_text())).runs
