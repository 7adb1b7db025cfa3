"""The configuration's models: what is refused and in which words, the defaults, and what determines a result."""

import itertools
from pathlib import Path

import pytest
import yaml

from posttrain import config
from posttrain.config import Run, read, validate
from posttrain.errors import UserError

# change to the small configuration -> what the sentence says after the file's name
REFUSED = [
    # unknown keys, with the nearest name
    ({"rnus": {}}, "rnus: unknown key 'rnus'; did you mean 'runs'?"),
    ({"bases.base.pth": "x"}, "bases.base.pth: unknown key 'pth'; did you mean 'path'?"),
    ({"datasets.chats.colums": {}}, "datasets.chats.colums: unknown key 'colums'; did you mean 'columns'?"),
    ({"runs.sft.learning_rat": 1}, "runs.sft.learning_rat: unknown key 'learning_rat'; did you mean 'learning_rate'?"),
    ({"runs.sft.from_": "base"}, "runs.sft.from_: unknown key 'from_'; did you mean 'from'?"),
    ({"sweeps.rank.ovr": {}}, "sweeps.rank.ovr: unknown key 'ovr'; did you mean 'over'?"),
    ({"evaluation": {"limt": 3}}, "evaluation.limt: unknown key 'limt'; did you mean 'limit'?"),
    ({"tracking": {"mlfow": True}}, "tracking.mlfow: unknown key 'mlfow'; did you mean 'mlflow'?"),
    # missing keys
    ({"runs.sft.from": ...}, "runs.sft.from: this key is missing"),
    ({"runs.sft.data": ...}, "runs.sft.data: this key is missing"),
    ({"runs.sft.objective": ...}, "runs.sft.objective: this key is missing"),
    ({"bases.base.path": ...}, "bases.base.path: this key is missing"),
    ({"bases.base": {"source": "wheel"}}, "bases.base.package: this key is missing"),
    ({"sweeps.rank.run": ...}, "sweeps.rank.run: this key is missing"),
    # values outside their type
    ({"runs.sft.rank": "many"}, "runs.sft.rank: input should be a valid integer"),
    ({"runs.sft.rank": 4.5}, "runs.sft.rank: input should be a valid integer"),
    ({"runs.sft.rank": 0}, "runs.sft.rank: input should be greater than 0, but it is 0"),
    ({"runs.sft.batch_size": None}, "runs.sft.batch_size: input should be a valid integer, but it is None"),
    ({"runs.sft.learning_rate": "fast"}, "runs.sft.learning_rate: input should be a valid number"),
    (
        {"runs.sft.learning_rate": float("nan")},
        "runs.sft.learning_rate: input should be a finite number, but it is nan",
    ),
    ({"runs.sft.dropout": 1}, "runs.sft.dropout: input should be less than 1, but it is 1"),
    ({"runs.sft.warmup": 1.5}, "runs.sft.warmup: input should be less than or equal to 1, but it is 1.5"),
    ({"runs.sft.seed": -1}, "runs.sft.seed: input should be greater than or equal to 0, but it is -1"),
    ({"runs.sft.gradient_checkpointing": "maybe"}, "runs.sft.gradient_checkpointing: input should be a valid boolean"),
    ({"runs.sft.trainer_args": [1]}, "runs.sft.trainer_args: input should be a valid dictionary, but it is [1]"),
    ({"runs.sft.target_modules": 3}, "runs.sft.target_modules: input should be a valid string, but it is 3"),
    ({"runs.sft.objective": "dpoo"}, "runs.sft.objective: 'dpoo' is not allowed; did you mean 'dpo'?"),
    ({"runs.sft.method": "qlra"}, "runs.sft.method: 'qlra' is not allowed; did you mean 'qlora'?"),
    ({"runs.sft.schedule": "cosin"}, "runs.sft.schedule: 'cosin' is not allowed; did you mean 'cosine'?"),
    ({"runs.sft.data": "a/b"}, "runs.sft.data: 'a/b' does not have the form"),
    ({"use": "fun"}, "use: 'fun' is not allowed; valid are commercial, research"),
    ({"evaluation": {"limit": 0}}, "evaluation.limit: input should be greater than 0, but it is 0"),
    (
        {"tracking": {"checkpoint_seconds": -1}},
        "tracking.checkpoint_seconds: input should be greater than or equal to 0",
    ),
    ({"sweeps.rank.over": {}}, "sweeps.rank.over: dictionary should have at least 1 item"),
    ({"sweeps.rank.over": {"rank": 4}}, "sweeps.rank.over.rank: input should be a valid list, but it is 4"),
    ({"bases.base": 3}, "bases.base: input should be a valid dictionary"),
    ({"bases.base": {"source": "wheell"}}, "bases.base.source: 'wheell' is no source; did you mean 'wheel'?"),
    ({"bases.base": {"path": "base"}}, "bases.base.source: 'None' is no source; valid are hub, path, random, wheel"),
    ({"bases.base": {"source": "wheel", "package": "name"}}, "bases.base.package: 'name' does not have the form"),
    ({"bases.base": {"source": "wheel", "package": "name==1; rm -rf"}}, "does not have the form"),
    ({"bases.base": {"source": "hub", "model": "a/b/c"}}, "bases.base.model: 'a/b/c' does not have the form"),
    (
        {"bases.base": {"source": "random", "text": "chats", "heads": 3}},
        "hidden_size 64 is no multiple of 2 x heads (6)",
    ),
    (
        {"bases.base": {"source": "random", "text": "chats", "vocab_size": 256}},
        "bases.base.vocab_size: input should be",
    ),
    (
        {"datasets.chats.format": "preferences"},
        "datasets.chats.format: 'preferences' is not allowed; did you mean 'preference'?",
    ),
    ({"datasets.chats.hub": "a/b"}, "datasets.chats: a dataset has one of `path`, `hub` and `from`"),
    ({"datasets.chats.path": ...}, "datasets.chats: a dataset has one of `path`, `hub` and `from`"),
    ({"datasets.chats.validation": 0.95}, "datasets.chats: validation is 0.95; write a share from 0 to 0.9, or a file"),
    ({"datasets.chats.validation": -1}, "datasets.chats: validation is -1.0; write a share from 0 to 0.9, or a file"),
    ({"datasets.chats.limit": 0}, "datasets.chats.limit: input should be greater than 0, but it is 0"),
    # keys that have no effect, or contradict each other
    ({"runs.sft.beta": 0.1}, "runs.sft: beta has no effect here; it needs objective: dpo"),
    ({"runs.sft.loss_type": "ipo"}, "runs.sft: loss_type: 'ipo' is not allowed; valid are dft, nll"),
    ({"runs.full.rank": 8}, "runs.full: rank has no effect here; it needs method: lora"),
    ({"runs.full.alpha": 8}, "runs.full: alpha has no effect here; it needs method: lora"),
    ({"runs.full.dropout": 0.1}, "runs.full: dropout has no effect here; it needs method: lora"),
    ({"runs.full.target_modules": "all-linear"}, "runs.full: target_modules has no effect here; it needs method: lora"),
    ({"runs.full.peft_args": {}}, "runs.full: peft_args has no effect here; it needs method: lora"),
    ({"runs.sft.accumulation": 3}, "runs.sft: accumulation 3 does not divide batch_size 8"),
    ({"runs.sft.epochs": 1, "runs.sft.max_steps": 3}, "runs.sft: epochs and max_steps are both set; write one of them"),
    # names
    ({"runs.Sft": {}}, "runs: 'Sft' is no name; write a small letter, then small letters, digits and _"),
    ({"runs": {True: {}}}, "runs: 'True' is no name"),
    ({"bases": {"data": {}}}, "bases: the name 'data' is reserved for a folder of results/; choose another"),
    ({"runs.logs": {}}, "runs: the name 'logs' is reserved for a folder of results/; choose another"),
    ({"runs.base": {}}, "'base' names a base and a run; bases and runs share one name space, rename one"),
    ({"runs": ["sft"]}, "runs: this is a table of names; write `name: {...}` under it"),
]


@pytest.mark.parametrize(("changes", "sentence"), REFUSED, ids=[sentence for _, sentence in REFUSED])
def test_a_mistake_is_one_sentence_with_its_place(configuration, changes, sentence):
    with pytest.raises(UserError) as error:
        read(configuration(changes), "my.yaml")
    assert str(error.value).startswith("my.yaml: ")
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "values",
    [
        {"from": "base", "objective": "sft", "data": "chats"} | keys
        for keys in (
            {"beta": 0.2},
            {"accumulation": 3},
            {"method": "full", "rank": 4},
            {"epochs": 2, "max_steps": 5},
        )
    ],
)
def test_a_run_that_contradicts_itself_is_refused_where_it_is_validated_alone(values):
    with pytest.raises(UserError, match="results/sft: "):
        validate(Run, values, "results/sft")


def test_a_boolean_is_no_number(configuration):
    with pytest.raises(UserError, match=r"runs\.sft\.rank: "):
        read(configuration({"runs.sft.rank": True}), "my.yaml")


def test_a_number_is_finite(configuration):
    with pytest.raises(UserError, match=r"runs\.sft\.learning_rate: "):
        read(configuration({"runs.sft.learning_rate": float("inf")}), "my.yaml")


def test_a_loss_that_trl_does_not_have_is_refused(configuration):
    with pytest.raises(UserError, match=r"runs\.dpo: loss_type: 'sigmoidd' is not allowed; did you mean 'sigmoid'"):
        read(configuration({"runs.dpo.loss_type": "sigmoidd"}), "my.yaml")


def test_a_package_is_no_option_of_pip(configuration):
    with pytest.raises(UserError, match=r"bases\.base\.package: "):
        read(configuration({"bases.base": {"source": "wheel", "package": "--pre==1"}}), "my.yaml")


def test_a_column_that_no_shape_has_is_refused(configuration):
    with pytest.raises(UserError, match="did you mean 'prompt'"):
        read(configuration({"datasets.chats.columns": {"promt": "question"}}), "my.yaml")


def test_the_small_configuration_is_valid_and_an_empty_one_too(configuration):
    assert list(read(configuration(), "my.yaml").runs) == ["sft", "dpo", "follow", "full"]
    assert read({}, "my.yaml").runs == {}
    assert read({"runs": None, "evaluation": None}, "my.yaml").evaluation.limit == 100


@pytest.mark.parametrize("written", ["1e-4", "0.0001", "1.0e-4"])
def test_every_way_to_write_a_number_in_yaml_gives_that_number(configuration, written):
    values = configuration({"runs.sft.learning_rate": yaml.safe_load(written)})
    assert read(values, "my.yaml").runs["sft"].learning_rate == 0.0001


def test_a_validation_share_may_be_written_as_yaml_text_and_a_file_stays_a_file(configuration):
    assert read(configuration({"datasets.chats.validation": "2e-1"}), "my.yaml").datasets["chats"].validation == 0.2
    assert read(configuration(), "my.yaml").datasets["pairs"].validation == "held_out.jsonl"


DEFAULTS = {
    ("sft", "lora"): {"learning_rate": 2e-4, "alpha": 32.0, "dropout": 0.05},
    ("sft", "full"): {"learning_rate": 2e-5},
    ("dpo", "lora"): {"learning_rate": 5e-5, "alpha": 32.0, "dropout": 0.0, "beta": 0.1},
    ("dpo", "full"): {"learning_rate": 1e-6, "beta": 0.1},
}


def run(**keys) -> Run:
    return validate(Run, {"from": "base", "objective": "sft", "data": "chats"} | keys, "run")


@pytest.mark.parametrize(("objective", "method"), DEFAULTS)
def test_the_defaults_that_depend_on_objective_and_method(objective, method):
    settings = run(objective=objective, method=method).settings()
    assert settings | DEFAULTS[objective, method] == settings


def test_alpha_follows_the_rank_until_it_is_set():
    assert run(rank=4).settings()["alpha"] == 8
    assert run(rank=4, alpha=64).settings()["alpha"] == 64


@pytest.mark.parametrize(("objective", "method"), DEFAULTS)
def test_settings_hold_no_key_that_has_no_effect(objective, method):
    settings = run(objective=objective, method=method).settings()
    assert all((key in settings) == (method in methods) for key, methods in config.METHODS_OF.items())
    acting = {key: objective in objectives for key, objectives in config.OBJECTIVES_OF.items() if key != "reward"}
    assert {key: key in settings for key in acting} == acting
    assert not {"from", "from_", "data", "reward"} & settings.keys()


def test_a_set_value_is_kept_where_a_default_would_differ():
    settings = run(learning_rate="3e-4", dropout=0.2, objective="dpo").settings()
    assert (settings["learning_rate"], settings["dropout"]) == (3e-4, 0.2)


def test_every_key_is_described():
    tables = [config.Config, *config.BASES.values(), *config.TABLES.values()]
    for table, (name, field) in itertools.chain.from_iterable(
        ((table, item) for item in table.model_fields.items()) for table in tables
    ):
        assert name == "source" or field.description, f"{table.__name__}.{name}"


def test_every_table_of_the_file_is_in_the_tables_that_errors_and_the_page_use():
    assert set(config.Config.model_fields) == {"bases", "use", *config.TABLES}


def test_the_fields_that_run_keys_set_exist_in_the_installed_trl():
    trained = config.OBJECTIVES_OF["trainer_args"]
    assert frozenset().union(*map(config.trainer_fields, trained)) >= config.OWN_FIELDS
    assert {"packing", "learning_rate"} <= config.trainer_fields("sft")
    assert {"beta", "label_smoothing"} <= config.trainer_fields("dpo")
    assert "beta" not in config.trainer_fields("sft")


def test_the_fields_of_a_method_are_read_from_the_installed_peft():
    assert {"r", "use_rslora", "modules_to_save"} <= config.peft_fields("lora")
    assert {"target_r", "tinit", "use_rslora", "modules_to_save"} <= config.peft_fields("adalora")
    assert "use_rslora" not in config.peft_fields("ia3")


@pytest.mark.parametrize("file", ["config/config.yaml", "config/test/tiny.yaml"])
def test_the_shipped_configurations_are_valid(file):
    repository = Path(__file__).resolve().parents[2]
    assert read(yaml.safe_load((repository / file).read_text()), file).runs
