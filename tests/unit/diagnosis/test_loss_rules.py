"""Loss curves: healthy ones have no finding, each disease has its own."""

import math

import numpy as np
import pytest

from posttrain.diagnosis import loss_rules

from .made import DPO, GRPO, SPEC, falling, noise, run


def codes(found):
    return [finding.code for finding in loss_rules.find(found)]


@pytest.mark.parametrize("n", [12, 40, 200, 600])
def test_a_healthy_loss_has_no_finding(n):
    for seed in range(25):
        norms = np.exp(noise(n, 0.3, seed + 500))
        assert codes(run(SPEC, loss=falling(n, seed=seed), grad_norm=norms)) == []


def test_a_loss_that_levels_early_is_healthy():
    for seed in range(40):
        assert codes(run(SPEC, loss=falling(300, 1.4, 1.2, 0.1, seed))) == []


def test_a_loss_of_pairs_that_hardly_moves_is_healthy_where_the_margin_grows():
    margin = np.linspace(0, 0.2, 60) + noise(60, 0.02)
    assert codes(run(DPO, **{"loss": math.log(2) + noise(60, 0.003), "rewards/margins": margin})) == []


def test_diverged():
    values = [*falling(20), math.nan]
    (finding,) = loss_rules.find(run(SPEC, loss=values))
    assert finding.code == "diverged" and "nan" in finding.sentence
    assert finding.changes[0] == {"learning_rate": 4e-5}
    failed = run(SPEC | {"warmup": 0.0}, loss=falling(20))
    failed.error = "run: the gradient's norm is inf at step 21; write a lower learning_rate"
    (finding,) = loss_rules.find(failed)
    assert finding.code == "diverged" and finding.changes[0] == {"warmup_ratio": 0.1}


def test_loss_zero():
    assert codes(run(SPEC, loss=[0.0] * 20)) == ["loss-zero"]
    assert codes(run(SPEC, loss=falling(20), grad_norm=[0.0] * 20)) == ["loss-zero"]
    known = np.r_[np.linspace(2, 0, 10), np.full(30, 1e-4)]
    assert codes(run(SPEC, loss=known)) == ["loss-zero"]
    assert codes(run(SPEC, loss=known, rows=80)) == []  # rows that were seen may be known


def test_answers_that_are_all_alike():
    found = run(SPEC, loss=falling(40))
    found.training_answers = ["yes"] * 40
    assert codes(found) == ["loss-zero"]
    found.training_answers[3] = "no"
    assert codes(found) == []


def test_learning_rate_too_high():
    for seed in range(20):
        ends_above = run(SPEC, loss=np.linspace(2, 6, 60) + noise(60, 0.2, seed))
        rises_again = run(SPEC, loss=np.r_[falling(60, 3, 1, 0.1, seed), np.linspace(1, 3, 30) + noise(30, 0.1, seed)])
        assert codes(ends_above) == codes(rises_again) == ["learning-rate-too-high"]
    (finding,) = loss_rules.find(run(SPEC | {"warmup": 0.0, "schedule": "constant"}, loss=np.linspace(2, 6, 60)))
    assert finding.changes == ({"learning_rate": 4e-5}, {"warmup_ratio": 0.1}, {"lr_scheduler_type": "cosine"})


def test_learning_rate_too_low():
    (finding,) = loss_rules.find(run(SPEC | {"learning_rate": 1e-6}, loss=2 + noise(90, 0.01)))
    assert finding.code == "learning-rate-too-low" and finding.changes[0] == {"learning_rate": 2e-4}
    slow = run(SPEC, loss=np.zeros(90))
    done = np.cumsum([line["learning_rate"] for line in slow.steps])
    assert codes(run(SPEC, loss=2 - 0.1 * done / done[-1] + noise(90, 0.01))) == ["learning-rate-too-low"]
    levels = run(SPEC, loss=falling(90, 6.6, 6.2, 0.01))
    assert codes(levels) == []
    levels.vocabulary = 768  # of which a guess has 6.64 nats
    assert codes(levels) == ["learning-rate-too-low"]


def test_a_learning_rate_that_moves_no_weight():
    assert codes(run(SPEC | {"learning_rate": 1e-10}, loss=2 + noise(30, 0.5))) == ["learning-rate-too-low"]


def test_flat_loss():
    assert codes(run(SPEC, loss=2 + noise(90, 0.01))) == ["flat-loss"]
    assert codes(run(SPEC, loss=2 + noise(90, 0.5))) == []  # so noisy that something may have been learnt


def test_a_flat_loss_at_a_high_rate_asks_for_no_higher_one():
    (finding,) = loss_rules.find(run(SPEC | {"learning_rate": 0.05}, loss=2 + noise(90, 0.01)))
    assert finding.changes == ({"method": "full"},) and "0.05 is high already" in finding.advice


def held_out(found, values):
    every = len(found.steps) // len(values)
    found.measured = [{"step": (i + 1) * every, "eval_loss": value} for i, value in enumerate(values)]
    return found


def test_overfitting_from_the_step_at_which_the_held_out_loss_turned():
    turned = [2.0, 1.5, 1.3, 1.25, 1.3, 1.4, 1.55, 1.7, 1.9, 2.1]
    found = held_out(run(SPEC | {"epochs": 10.0}, loss=falling(100, last=0.05, size=0.02), rows=80), turned)
    (finding,) = loss_rules.find(found)
    assert finding.code == "overfitting" and "from step 40" in finding.sentence and "1.25" in finding.sentence
    assert finding.changes == ({"keep": "best"}, {"epochs": 4.0})
    found.train = {"steps": 100, "held_out": {"logged": "eval_loss", "kept_step": 40}}
    assert codes(found) == []  # the best step was kept


def test_a_held_out_loss_that_levels_or_trembles_is_no_overfitting():
    level = [2.0, 1.5, 1.3, 1.25, 1.22, 1.2, 1.21, 1.2, 1.21, 1.205]
    trembling = [2.0, 1.5, 1.7, 1.3, 1.5, 1.2, 1.45, 1.2, 1.4, 1.3]
    for values in (level, trembling):
        assert codes(held_out(run(SPEC, loss=falling(100)), values)) == []


def test_overfitting_that_was_not_measured_on_the_way():
    found = run(SPEC | {"epochs": 20.0}, loss=falling(100, last=0.03, size=0.01), rows=40)
    found.evaluation = {"by_dataset": {"rows": {"perplexity": {"value": 8.0, "low": 5.0, "high": 12.0, "n": 40}}}}
    (finding,) = loss_rules.find(found)
    assert finding.code == "overfitting" and "last of 20 epochs" in finding.sentence
    found.evaluation["by_dataset"]["rows"]["perplexity"] |= {"low": 1.5}
    assert codes(found) == []
    found.measured = [{"step": 20 * (i + 1), "eval_loss": loss} for i, loss in enumerate([5.0, 4.0, 3.5, 3.4, 3.3])]
    (finding,) = loss_rules.find(found)  # it still falls, far above the training loss
    assert finding.code == "overfitting" and "held-out rows one of 3.3" in finding.sentence


def test_gradient_spikes():
    norms = np.exp(noise(100, 0.2))
    norms[[20, 40, 60, 80]] = 50
    assert codes(run(SPEC | {"max_grad_norm": 1e9}, loss=falling(100), grad_norm=norms)) == ["gradient-spikes"]
    assert codes(run(SPEC, loss=falling(100), grad_norm=norms)) == []  # clipped
    early = np.exp(noise(100, 0.2))
    grpo = {"reward_std": np.where(norms > 10, 0.2, 0.0)}  # only these steps have a gradient at all
    assert codes(run(GRPO | {"max_grad_norm": 1e9}, grad_norm=norms, **grpo)) == []
    early[[0, 2, 4]] = 50
    assert codes(run(SPEC | {"warmup": 0.0}, loss=falling(100), grad_norm=early)) == ["gradient-spikes"]
