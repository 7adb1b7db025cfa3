"""What a training on sampled completions proves: rewards, KL divergence, entropy and length."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from scipy import stats

from posttrain.diagnosis import trends
from posttrain.diagnosis.evidence import Evidence
from posttrain.diagnosis.findings import Finding
from posttrain.diagnosis.trends import picture, short
from posttrain.objectives import OBJECTIVES

LENGTHS = ("completions/mean_length", "answer_length")
FAR = 0.5  # nats a token: each token is exp(0.5) = 1.6 times as likely as under the reference, so 100 tokens share nothing with it
AWAY = 0.1  # nats a token, from which a longer completion with more reward may be another kind of text
LONGER = 1.25  # completions grew by a quarter
TOGETHER = 0.01  # of each of several trends that must all be there
SAME = 0.8  # share of the steps whose completions all have one reward
FLAT = 1e-6  # of a standard deviation of rewards
POLICY = 0.1  # entropy that is left of what there was at the beginning
CERTAIN = 0.1  # nats: the likeliest token has 98 %
CLIPPED = 0.3  # share of tokens whose ratio is clipped: half of the usual step is thrown away
CUT, WERE_CUT = 0.9, 0.5  # shares of completions that end at max_new_tokens, at the end and at the beginning


def find(found: Evidence) -> Iterator[Finding]:
    """The findings of a run that samples its completions."""
    if not found.spec or not found.steps or not OBJECTIVES[found.spec["objective"]].on_policy:
        return
    silent = no_signal(found)
    if silent and not _had_signal(found):
        yield silent
        return
    for rule in (reward_hacking, kl_explosion, collapse, reward_falls, never_ends):
        if finding := rule(found):
            yield finding
            return  # the others would be its consequences
    if silent:
        yield silent


def rollouts(found: Evidence) -> list[dict[str, Any]]:
    """One line for each rollout: several steps on the same completions repeat their numbers."""
    lines: list[dict[str, Any]] = []
    for line in found.steps:
        own = line.get("kl") if "answer_length" in line else line.get("num_tokens")
        key = (line.get("reward"), own, _length(line))
        if not lines or key != lines[-1]["_key"]:
            lines.append(line | {"_key": key})
    return lines


def _length(line: dict[str, Any]) -> float | None:
    return next((line[name] for name in LENGTHS if name in line), None)


def _column(lines: list[dict[str, Any]], name: str) -> list[float]:
    return [line[name] for line in lines if name in line and math.isfinite(line[name])]


def _kl(lines: list[dict[str, Any]]) -> list[float]:
    """KL divergence in nats a token; PPO logs it by completion."""
    return [
        line["kl"] / max(line["answer_length"], 1) if "answer_length" in line else line["kl"]
        for line in lines
        if math.isfinite(line.get("kl", math.nan))
    ]


def no_signal(found: Evidence) -> Finding | None:
    """Completions that all have the same reward, so that none is better than another."""
    stds = _column(found.steps, "reward_std")
    lines = rollouts(found)
    rewards = _column(lines, "reward")
    same = float(np.mean([std < FLAT for std in stds])) if stds else float(np.ptp(rewards) < FLAT) if rewards else 0.0
    if same < SAME or len(found.steps) < trends.MIN_STEPS:
        return None
    text = (
        f"in {same:.0%} of {len(found.steps)} steps all completions have one reward, {short(np.median(rewards))} "
        "as a rule, so nothing tells them apart"
    )
    changes: list[dict[str, Any]] = [{"temperature": 1.0}] if found.spec["temperature"] < 1 else []
    if found.spec.get("generations"):
        changes.append({"num_generations": 2 * found.spec["generations"], "batch_size": 2 * found.spec["batch_size"]})
    advice = (
        "a reward that some completions get and others not: easier prompts, SFT on the format first, or parts of "
        "the reward; more generations"
    )
    return Finding("no-reward-signal", text, picture("reward", rewards), advice, tuple(changes))


def _had_signal(found: Evidence) -> bool:
    """Whether rewards differed at first, so that something else came between."""
    first = _column(found.steps, "reward_std")[: max(len(found.steps) // 3, 1)]
    return bool(first) and float(np.mean([std < FLAT for std in first])) < SAME


def _hold(spec: dict[str, Any]) -> tuple[dict[str, Any], ...]:
    """Runs that stay nearer to the reference."""
    changes: list[dict[str, Any]] = []
    if "kl_coefficient" in spec:
        changes.append({"kl_coef": float(f"{max(4 * spec['kl_coefficient'], 0.05):.2g}")})
    elif "beta" in spec:
        changes.append({"beta": float(f"{max(4 * (spec['beta'] or 0), 0.04):.2g}")})
    return (*changes, {"learning_rate": float(f"{spec['learning_rate'] / 5:.0e}")})


def kl_explosion(found: Evidence) -> Finding | None:
    """A policy that is so far from its reference that their texts have nothing in common."""
    values = _kl(rollouts(found))
    moved = trends.shift(values)
    if moved is None or moved.last < FAR or not (moved.rises() or _is_above(values[len(values) // 3 :], AWAY)):
        return None
    text = (
        f"the KL divergence from the reference, which is 0 at the start, was {short(moved.first)} nats a token in the first third of "
        f"the training and {short(moved.last)} in the last"
    )
    advice = "a larger weight of the KL divergence (beta; ppo: kl_coef, kl_target), or a lower learning rate"
    return Finding("kl-explosion", text, picture("KL", values), advice, _hold(found.spec))


def _is_above(values: list[float], least: float) -> bool:
    """Whether values are above a number by more than chance: a policy that leaves its reference within a few steps rises no more."""
    return bool(stats.ttest_1samp(values, least, alternative="greater").pvalue < trends.CHANCE)


def reward_hacking(found: Evidence) -> Finding | None:
    """Reward, length and KL divergence that rise together, or a reward that rises while held-out measures fall."""
    lines = rollouts(found)
    lengths = [length for line in lines if (length := _length(line)) is not None]
    reward, length = trends.shift(_column(lines, "reward")), trends.shift(lengths)
    if reward is None or length is None or not reward.rises(TOGETHER):
        return None
    grew = length.rises(TOGETHER) and length.last > LONGER * length.first
    values = _kl(lines)
    away = trends.shift(values) if values else None
    left = away is not None and away.rises(TOGETHER) and away.last > AWAY
    worse = _worse(found)
    if not (grew and (left or worse)):
        return None
    text = (
        f"the reward rose from {short(reward.first)} to {short(reward.last)} while completions grew from {length.first:.0f} to "
        f"{length.last:.0f} tokens"
    )
    if left:
        text += f" and the KL divergence from {short(away.first)} to {short(away.last)} nats a token"
    if worse:
        text += f"; held-out {' and '.join(worse)} got worse"
    drawn = f"{picture('reward', _column(lines, 'reward'))}   {picture('tokens', lengths)}"
    advice = (
        "read completions with high reward; hold the policy nearer to its reference, or take length out of the reward"
    )
    return Finding("reward-hacking", text, drawn, advice, _hold(found.spec))


def _worse(found: Evidence) -> list[str]:
    """The metrics other than the reward in which the run is worse than its parent."""
    rows = found.evaluation.get("against", {}).get(found.spec["from"]["name"], {})
    return [name for name, row in rows.items() if row["verdict"] == "worse" and not name.endswith("reward")]


def collapse(found: Evidence) -> Finding | None:
    """A policy that samples always the same, and no longer gets better."""
    values = _column(found.steps, "entropy")
    moved, reward = trends.shift(values), trends.shift(_column(rollouts(found), "reward"))
    if moved is None or not moved.falls() or moved.last > min(CERTAIN, POLICY * moved.first):
        return None
    if reward is not None and reward.rises():
        return None
    text = f"the entropy of the policy fell from {short(moved.first)} to {short(moved.last)} nats a token, and the reward did not rise"
    advice = "a lower learning rate, a larger beta, or a higher temperature of sampling"
    return Finding("entropy-collapse", text, picture("entropy", values), advice, _hold(found.spec))


def reward_falls(found: Evidence) -> Finding | None:
    """A policy whose own reward falls, or whose steps are clipped for the most part."""
    lines = rollouts(found)
    rewards = _column(lines, "reward")
    moved = trends.shift(rewards)
    clipped = _column(found.steps, "clip_fraction") or _column(found.steps, "clip_ratio/region_mean")
    share = float(trends.thirds(clipped)[1].mean()) if clipped else 0.0
    slower = ({"learning_rate": float(f"{found.spec['learning_rate'] / 5:.0e}")},)
    if moved is not None and moved.falls():
        text = f"the reward fell from {short(moved.first)} to {short(moved.last)}: the policy gets worse by its own measure"
    elif share > CLIPPED and len(clipped) >= trends.MIN_STEPS:
        text = f"{share:.0%} of the tokens' ratios are clipped in the last third of the steps: the updates are larger than the loss can use"
    else:
        return None
    return Finding("learning-rate-too-high", text, picture("reward", rewards), "a lower learning rate", slower)


def never_ends(found: Evidence) -> Finding | None:
    """Completions that ended of their own and no longer do."""
    values = _column(found.steps, "completions/clipped_ratio")
    moved = trends.shift(values)
    if moved is None or not moved.rises() or moved.first > WERE_CUT or moved.last < CUT:
        return None
    text = (
        f"{moved.first:.0%} of the completions were cut at max_new_tokens ({found.spec['max_new_tokens']}) at the "
        f"beginning, {moved.last:.0%} at the end"
    )
    advice = "a reward that a cut completion does not get, or a larger max_new_tokens"
    changes = ({"max_new_tokens": 2 * found.spec["max_new_tokens"]}, *_hold(found.spec))
    return Finding("stop-token-not-learnt", text, picture("cut", values), advice, changes)
