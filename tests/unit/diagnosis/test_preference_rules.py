"""Pairs: what falls, what is learnt by heart, what is chance."""

import numpy as np
import pytest

from posttrain.diagnosis import preference_rules

from .made import DPO, noise, run


def codes(found):
    return [finding.code for finding in preference_rules.find(found)]


def pairs(found, chosen, rejected, n=40):
    """Held-out pairs whose log-probabilities changed by that much from the parent to the run, from about -20."""
    before = noise(n, 4, 7) - 20
    for examples, (own, other) in ((found.parent_examples, (0, 0)), (found.examples, (chosen, rejected))):
        small = noise(n, 0.3, len(found.parent_examples))
        examples += [
            {"suite": "", "dataset": "rows", "id": str(i)}
            | {"chosen_log_prob": before[i] + own + small[i], "rejected_log_prob": before[i] + other}
            for i in range(n)
        ]  # fmt: skip
    return found


def dpo(n=60, **spec):
    margin = np.linspace(0, 1, n) + noise(n, 0.1)
    return run(DPO | spec, **{"rewards/margins": margin, "rewards/accuracies": np.linspace(0.5, 0.9, n)})


@pytest.mark.parametrize(
    ("chosen", "rejected", "found"),
    [
        (0.5, -5, []),
        (-1, -9, []),  # less than a tenth of -20
        (-4, -16, []),  # the rejected one falls by four times as much
        (-4, -10, ["chosen-falls"]),
        (-15, -90, ["chosen-falls"]),  # three quarters of what the model knew
        (-8, -9, ["both-rewards-fall"]),
    ],
)
def test_held_out_pairs(chosen, rejected, found):
    assert codes(pairs(dpo(), chosen, rejected)) == found


def test_the_advice_is_what_the_objective_has():
    (finding,) = preference_rules.find(pairs(dpo(), -4, -10))
    assert finding.changes == ({"loss_type": ["sigmoid", "sft"]}, {"beta": 0.3}, {"learning_rate": 1e-5})
    (finding,) = preference_rules.find(pairs(dpo(loss_type=["sigmoid", "sft"]), -4, -10))
    assert finding.changes == ({"beta": 0.3}, {"learning_rate": 1e-5})


def test_a_training_that_is_not_evaluated():
    fall = np.linspace(0, -1, 60) + noise(60, 0.05)
    found = run(DPO, **{"rewards/chosen": fall, "rewards/rejected": 2 * fall, "logps/chosen": noise(60, 3) - 20})
    (finding,) = preference_rules.find(found)
    assert finding.code == "chosen-falls"
    assert "fell by 6.51 (32%)" in finding.sentence  # two thirds of a fall of 1 in units of beta = 0.1


def evaluated(found, value, low, high, n=50):
    found.evaluation = {
        "by_dataset": {"rows": {"preference_margin_accuracy": {"value": value, "low": low, "high": high, "n": n}}}
    }
    return found


def test_chance():
    assert codes(evaluated(dpo(), 0.52, 0.38, 0.66)) == ["no-better-than-chance"]
    coin = np.random.default_rng(3).binomial(8, 0.5, 30) / 8
    columns = {"accuracy": coin, "margin": noise(30, 0.1)}
    (finding,) = preference_rules.find(run(DPO | {"objective": "reward"}, **columns))
    assert finding.code == "no-better-than-chance" and "160 training pairs" in finding.sentence
    assert codes(run(DPO | {"objective": "reward"}, **columns | {"accuracy": (coin + 1) / 2})) == []
    assert codes(evaluated(dpo(), 0.6, 0.45, 0.74)) == []  # may be better
    assert codes(evaluated(dpo(), 0.52, 0.3, 0.7, n=20)) == []


def test_pairs_learnt_by_heart():
    found = run(DPO | {"epochs": 10.0}, **{"rewards/accuracies": np.r_[np.linspace(0.5, 1, 20), np.ones(40)]})
    assert codes(evaluated(found, 0.6, 0.52, 0.75)) == ["overfitting"]
    assert codes(evaluated(found, 0.85, 0.75, 0.93)) == []
