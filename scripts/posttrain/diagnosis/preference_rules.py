"""What pairs of a chosen and a rejected completion prove, in training and on held-out rows."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from scipy import stats

from posttrain.diagnosis import trends
from posttrain.diagnosis.evidence import Evidence, own_metric, paired
from posttrain.diagnosis.findings import Finding
from posttrain.diagnosis.trends import picture, short
from posttrain.metrics.statistics import FEWEST
from posttrain.objectives import OBJECTIVES

FALL = 0.1  # of a chosen completion's own negative log-probability: what is lost is a tenth of all that the model knew of it
MOST = 0.5  # of that, which is too much whatever the margin is
COSTLY = 0.5  # fall of the chosen completion over the margin: below, the loss works on the rejected one, as DPO does in healthy runs
LIKELIHOOD = "sft"  # DPO's loss type that is the likelihood of the chosen completion
HARDLY = 0.25  # margin over the fall of the chosen completion: the loss moves both down and hardly apart
MIN_PAIRS = 30  # held-out pairs: fewer cannot tell 70 % from a coin
NEAR_CHANCE = 0.7  # a share that the interval stays below: better than a coin, if at all, by little
LEARNT, UNLEARNT = 0.9, 0.2  # share of training pairs told apart, and by how much fewer of the held-out ones


def find(found: Evidence) -> Iterator[Finding]:
    """The findings of a run on pairs."""
    if not found.spec or "preference" not in OBJECTIVES[found.spec["objective"]].data:
        return
    if OBJECTIVES[found.spec["objective"]].on_policy:
        return
    for rule in (chosen_falls, no_better_than_chance, learnt_by_heart):
        if finding := rule(found):
            yield finding


# ---- chosen completions become less likely


def chosen_falls(found: Evidence) -> Finding | None:
    """Chosen completions that become less likely, whether the rejected ones are left further behind or not."""
    if OBJECTIVES[found.spec["objective"]].reward_model:
        return None
    lost = _on_held_out(found) or _in_training(found)
    if lost is None:
        return None
    fall, margin, share, text, drawn = lost
    changes = _changes(found.spec)
    if margin < HARDLY * fall:
        return Finding(
            "both-rewards-fall",
            f"{text}; the rejected ones fall as well, and the two move apart by {short(max(margin, 0.0))} only",
            drawn,
            "a lower learning rate, or a larger beta, which holds the model nearer to its parent",
            ({"learning_rate": float(f"{found.spec['learning_rate'] / 5:.0e}")}, *changes),
        )
    if share < MOST and fall < COSTLY * margin:
        return None
    advice = "add the likelihood of the chosen completion to the loss, a larger beta, or a lower learning rate"
    return Finding("chosen-falls", f"{text}, while the margin grew by {short(margin)}", drawn, advice, changes)


def _on_held_out(found: Evidence) -> tuple[float, float, float, str, str] | None:
    """By the same held-out pairs under the parent and under the run: fall, margin, share that is lost, the sentence, the picture."""
    pairs = [
        (own, other)
        for own, other in paired(found)
        if own["dataset"] in found.own and own.get("chosen_log_prob") is not None
    ]
    if len(pairs) < FEWEST:
        return None
    own, other = (
        np.array([[pair[i]["chosen_log_prob"], pair[i]["rejected_log_prob"]] for pair in pairs]) for i in (0, 1)
    )
    change = own - other
    if stats.ttest_1samp(change[:, 0], 0, alternative="less").pvalue >= trends.CHANCE:
        return None
    fall, margin = -float(change[:, 0].mean()), float((change[:, 0] - change[:, 1]).mean())
    before = float(other[:, 0].mean())
    share = fall / abs(before)
    if share < FALL:
        return None
    text = (
        f"the log-probability of {len(pairs)} held-out chosen completions fell from {short(before)} (the parent) to "
        f"{short(before - fall)} on average"
    )
    return fall, margin, share, text, picture("chosen", sorted(change[:, 0].tolist()))


def _in_training(found: Evidence) -> tuple[float, float, float, str, str] | None:
    """By the curves of a training that was not evaluated."""
    if found.examples:
        return None
    beta = found.spec.get("beta") or 0
    has_reference = OBJECTIVES[found.spec["objective"]].reference != "none"
    names = ("rewards/chosen", "rewards/rejected") if has_reference and beta else ("logps/chosen", "logps/rejected")
    chosen, rejected = ([line[name] for line in found.steps if name in line] for name in names)
    moved, other = trends.shift(chosen), trends.shift(rejected)
    logged = [line["logps/chosen"] for line in found.steps if "logps/chosen" in line]
    if moved is None or other is None or not moved.falls() or not logged:
        return None
    scale = beta if has_reference and beta else 1.0
    fall, margin = -moved.change / scale, (moved.change - other.change) / scale
    share = fall / abs(float(trends.thirds(logged)[0].mean()))
    if share < FALL:
        return None
    text = f"the log-probability of chosen completions fell by {short(fall)} ({share:.0%}) during training"
    return fall, margin, share, text, picture(names[0], chosen)


def _changes(spec: dict[str, Any]) -> tuple[dict[str, Any], ...]:
    """Runs that hold the chosen completions, as far as an objective has the keys."""
    changes: list[dict[str, Any]] = []
    loss = spec.get("loss_type")
    losses = loss if isinstance(loss, list) else [loss]
    if OBJECTIVES[spec["objective"]].several_losses and LIKELIHOOD not in losses:
        changes.append({"loss_type": [*losses, LIKELIHOOD]})
    if spec.get("beta"):
        changes.append({"beta": float(f"{3 * spec['beta']:.2g}")})
    return (*changes, {"learning_rate": float(f"{spec['learning_rate'] / 5:.0e}")})


# ---- what held-out pairs say


def _held_out_accuracy(found: Evidence) -> tuple[str, dict[str, Any]] | None:
    """The share of held-out pairs that the run tells apart, as its objective learns to."""
    row = OBJECTIVES[found.spec["objective"]]
    by_objective = "preference_margin_accuracy" if row.reference != "none" else "preference_accuracy"
    name = "reward_accuracy" if row.reward_model else by_objective
    measured = own_metric(found, name)
    return (name, measured) if measured else None


def _training_accuracy(found: Evidence) -> tuple[str, dict[str, Any]] | None:
    """The share of training pairs that are told apart, each before the update that it is part of, after the first third of the steps."""
    name = OBJECTIVES[found.spec["objective"]].measures.get("accuracy")
    values = [line[name] for line in found.steps if name in line] if name else []
    if len(values) < trends.MIN_STEPS:
        return None
    values = values[len(values) // 3 :]
    n, value = len(values) * found.spec["batch_size"], float(np.mean(values))
    low, high = trends.share_bounds(round(value * n), n)
    return name, {"value": value, "n": n, "low": low, "high": high}


def no_better_than_chance(found: Evidence) -> Finding | None:
    """Held-out pairs that are told apart no better than by a coin; training pairs, where none are held out."""
    held_out = _held_out_accuracy(found)
    measured = held_out or _training_accuracy(found)
    if measured is None or measured[1].get("clusters", measured[1]["n"]) < MIN_PAIRS:
        return None
    name, row = measured
    if row["low"] > 0.5 or row["high"] > NEAR_CHANCE:
        return None
    text = (
        f"{name} is {row['value']:.0%} on {row['n']} {'held-out' if held_out else 'training'} pairs, with an interval from "
        f"{row['low']:.0%} to {row['high']:.0%}: a coin has 50%"
    )
    changes = ({"learning_rate": float(f"{found.spec['learning_rate'] * 5:.0e}")}, {"epochs": 3})
    advice = "look at pairs in the data page: are the chosen ones better? Then more pairs, more epochs, or a higher learning rate"
    return Finding("no-better-than-chance", text, trends.bar(name, row["value"]), advice, changes)


def learnt_by_heart(found: Evidence) -> Finding | None:
    """Training pairs that are told apart far better than held-out ones."""
    held_out = _held_out_accuracy(found)
    name = OBJECTIVES[found.spec["objective"]].measures.get("accuracy")
    values = [line[name] for line in found.steps if name in line] if name else []
    if held_out is None or len(values) < trends.MIN_STEPS or found.spec["epochs"] <= 1 or found.spec.get("max_steps"):
        return None
    last = float(trends.thirds(values)[1].mean())
    row = held_out[1]
    if last < LEARNT or row["high"] > last - UNLEARNT or row.get("clusters", row["n"]) < MIN_PAIRS:
        return None
    text = (
        f"{last:.0%} of the training pairs are told apart at the end, and {row['value']:.0%} of {row['n']} "
        f"held-out ones (at most {row['high']:.0%})"
    )
    advice = "fewer epochs, more pairs, or a larger beta"
    return Finding(
        "overfitting", text, picture("accuracy in training", values), advice, ({"epochs": 1}, {"keep": "best"})
    )
