"""A run's defaults, and which of its keys determine the result."""

import pytest

from posttrain.config import aliases
from posttrain.config.loading import validate
from posttrain.config.runs import WRITTEN_OUT, Run
from posttrain.methods import METHODS
from posttrain.objectives import OBJECTIVES
from posttrain.runtime.errors import UserError

TABLE = {"from": "base", "objective": "sft", "data": "chats"}
RULE = {"function": "final_number"}
DEFAULTS = {
    ("sft", "lora"): {"learning_rate": 2e-4, "alpha": 32.0, "dropout": 0.05},
    ("sft", "full"): {"learning_rate": 2e-5},
    ("dpo", "lora"): {"learning_rate": 5e-5, "alpha": 32.0, "dropout": 0.0, "beta": 0.1},
    ("dpo", "full"): {"learning_rate": 1e-6, "beta": 0.1},
}


def run(**keys) -> Run:
    return validate(Run, TABLE | keys, "runs.run")


@pytest.mark.parametrize(("objective", "method"), DEFAULTS)
def test_defaults_depend_on_objective_and_method(objective, method):
    settings = run(objective=objective, method=method).settings()
    assert settings | DEFAULTS[objective, method] == settings


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_objective_and_method_has_its_defaults(objective):
    rewarded = {"reward": RULE} if OBJECTIVES[objective].on_policy else {}
    for method in METHODS:
        try:
            settings = run(objective=objective, method=method, **rewarded).settings()
        except UserError:
            continue  # refused by test_run_rules.py
        learns, moves = METHODS[method].learning_rates
        assert settings["learning_rate"] == (
            learns if objective in ("sft", "pretrain", "reward", "classify") else moves
        )
        beta = {"dpo": 0.1, "kto": 0.1, "orpo": 0.1, "cpo": 0.1, "grpo": 0.0, "rloo": 0.05}
        assert settings.get("beta") == beta.get(objective)
        assert settings.get("rank", 16) == (256 if method == "vera" else 16)
        loss_types = {"sft": "nll", "dpo": "sigmoid", "kto": "kto", "cpo": "sigmoid", "grpo": "dapo"}
        assert settings.get("loss_type") == loss_types.get(objective)
        assert settings.get("dropout", 0) == (0.05 if objective == "sft" and "dropout" in settings else 0)
        assert settings.get("target_modules", "all-linear") == (None if method == "ia3" else "all-linear")


def test_every_key_of_the_tables_is_a_runs():
    for table in (METHODS, OBJECTIVES):
        assert {key for row in table.values() for key in row.keys} <= set(Run.model_fields)
    for row in OBJECTIVES.values():
        assert bool(row.loss_types) == ("loss_type" in row.keys)
        assert bool(row.trl_config) == ("trainer_args" in row.keys)
    for row in METHODS.values():
        assert bool(row.peft_config) == ("peft_args" in row.keys)


def test_alpha_follows_the_rank_until_it_is_set():
    assert run(rank=4).settings()["alpha"] == 8
    assert run(rank=4, alpha=64).settings()["alpha"] == 64


def test_value_that_is_set_is_kept():
    settings = run(learning_rate="3e-4", dropout=0.2, objective="dpo").settings()
    assert (settings["learning_rate"], settings["dropout"]) == (3e-4, 0.2)


@pytest.mark.parametrize(("objective", "method"), DEFAULTS)
def test_settings_hold_exactly_the_keys_that_act(objective, method):
    settings = run(objective=objective, method=method).settings()
    rows = (METHODS, METHODS[method]), (OBJECTIVES, OBJECTIVES[objective])
    idle = {key for table, own in rows for row in table.values() for key in row.keys if key not in own.keys}
    assert settings.keys() == {aliases.in_spec(key) for key in WRITTEN_OUT if key not in idle}


def test_every_key_outside_the_frozen_list_is_left_out_at_its_default():
    later = {
        "assistant_turns": "last",
        "train_thoughts": False,
        "packing": True,
        "save_precision": "fp32",
        "freeze": ["lora_B"],
    }
    before = run().settings()
    for key, value in later.items():
        assert key not in before
        assert run(**{key: value}).settings() == before | {key: value}
        assert run(**{key: Run.model_fields[key].default}).settings() == before


def test_frozen_list_has_keys_of_a_run_only_once():
    assert len(WRITTEN_OUT) == len(set(WRITTEN_OUT))
    assert set(WRITTEN_OUT) <= set(Run.model_fields)


def test_overruled_checks_are_in_no_spec():
    assert run(allow=["overlap"]).settings() == run().settings()


def test_pretrain_packs_unless_it_is_told_not_to():
    assert run(objective="pretrain").settings()["packing"] is True
    assert "packing" not in run(objective="pretrain", packing=False).settings()
    assert "packing" not in run(objective="pretrain", method="prefix").settings()  # whose rows cannot be packed
    assert "packing" not in run(packing=False).settings() and "packing" not in run().settings()
