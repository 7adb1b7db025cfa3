"""Sampled completions: rewards that mean nothing, and policies that run away."""

import numpy as np

from posttrain.diagnosis import sampling_rules

from .made import GRPO, noise, run

REWARD, LENGTH, CUT = "reward", "completions/mean_length", "completions/clipped_ratio"


def codes(found):
    return [finding.code for finding in sampling_rules.find(found)]


def grpo(n=60, spec=GRPO, **columns):
    standard = {
        REWARD: np.linspace(0.2, 0.6, n) + noise(n, 0.05),
        "reward_std": np.full(n, 0.3),
        LENGTH: 60 + noise(n, 3),
        "kl": np.linspace(0, 0.05, n) + np.abs(noise(n, 0.005)),
        "entropy": np.linspace(1.5, 1.0, n),
        CUT: np.full(n, 0.1),
    }
    return run(spec, **(standard | columns))


def test_a_healthy_policy_has_no_finding():
    for seed in range(20):
        assert codes(grpo(**{REWARD: np.linspace(0.2, 0.6, 60) + noise(60, 0.1, seed)})) == []
    longer = grpo(**{LENGTH: np.linspace(60, 120, 60) + noise(60, 3)})
    assert codes(longer) == []  # it is near its reference, and nothing got worse


def test_reward_hacking():
    longer = np.linspace(60, 120, 60) + noise(60, 3)
    assert codes(grpo(**{LENGTH: longer, "kl": np.linspace(0, 0.4, 60)})) == ["reward-hacking"]
    found = grpo(**{LENGTH: longer})
    found.evaluation = {"against": {"base": {"say/chrf": {"verdict": "worse"}, "reward": {"verdict": "worse"}}}}
    (finding,) = sampling_rules.find(found)
    assert finding.code == "reward-hacking" and "say/chrf got worse" in finding.sentence
    assert finding.changes[0] == {"beta": 0.16}


def test_kl_explosion():
    assert codes(grpo(kl=np.linspace(0, 3, 60) + np.abs(noise(60, 0.1)))) == ["kl-explosion"]
    at_once = np.r_[0, 1 + noise(59, 0.3)]
    assert codes(grpo(kl=at_once)) == ["kl-explosion"]
    lost = np.where(np.arange(60) < 10, 0.3, 0.0)  # rewards differed until the policy was lost
    assert codes(grpo(kl=at_once, **{REWARD: lost, "reward_std": lost})) == ["kl-explosion"]


def test_kl_of_ppo_is_of_a_completion():
    n = 60
    spec = {key: value for key, value in GRPO.items() if key not in ("beta", "generations")} | {
        "objective": "ppo",
        "kl_coefficient": 0.05,
    }
    columns = {REWARD: np.linspace(0, 1, n), "answer_length": np.full(n, 100.0)}
    assert codes(run(spec, kl=np.linspace(0, 9, n), **columns)) == []
    (finding,) = sampling_rules.find(run(spec, kl=np.linspace(0, 120, n), **columns))
    assert finding.code == "kl-explosion" and finding.changes[0] == {"kl_coef": 0.2}


def test_no_reward_signal():
    assert codes(grpo(**{REWARD: np.zeros(60), "reward_std": np.zeros(60)})) == ["no-reward-signal"]


def test_entropy_collapse():
    entropy = 1.5 * np.exp(-np.arange(60) / 8) + 0.01
    assert codes(grpo(entropy=entropy, **{REWARD: 0.4 + noise(60, 0.05)})) == ["entropy-collapse"]
    assert codes(grpo(entropy=entropy)) == []  # with a reward that rises it has found the answer


def test_a_reward_that_falls():
    assert codes(grpo(**{REWARD: np.linspace(0.6, 0.2, 60) + noise(60, 0.05)})) == ["learning-rate-too-high"]


def test_completions_that_no_longer_end():
    assert codes(grpo(**{CUT: np.linspace(0, 1, 60).round(1)})) == []
    assert codes(grpo(**{CUT: np.r_[np.linspace(0.1, 1, 30), np.ones(30)]})) == ["stop-token-not-learnt"]
