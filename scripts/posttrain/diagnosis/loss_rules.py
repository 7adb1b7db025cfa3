"""What the loss of a training proves: nothing trained, nothing learnt, too small or too large updates, overfitting.

The objectives that sample completions have a loss that says nothing of what was learnt, so these rules leave them out.
"""

import math
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
from scipy import stats

from posttrain.diagnosis import trends
from posttrain.diagnosis.evidence import Evidence, own_metric
from posttrain.diagnosis.findings import Finding
from posttrain.diagnosis.trends import picture, short
from posttrain.methods import METHODS
from posttrain.objectives import OBJECTIVES

ZERO = 1e-7  # of a loss: what float32 leaves of one that is 0
# nats a token of rows that were never seen: each token has 99.5 % already, so there is nothing to learn
NOTHING_NEW = 0.005
# Improvement of the loss that counts as something: a run whose 99.9 % interval ends below it has learnt nothing that anybody would see.
MATERIAL = 0.02
RISE = 0.15  # of the loss where it began: a rise of the training loss that is no slow drift
ABOVE = 0.05  # of that, which the loss may end above it: what is learnt first may cost a little on the last rows
# of that, which is added to a loss before its logarithm: pairs may have losses of nearly 0, which are no news
FLOOR = 0.1
LOST = 3  # times the loss of the first batch, which no update has touched: batches differ by less
RISE_CHANCE = 1e-5  # the lowest and the highest of many stretches are compared, so chance gets more tries than one
STILL = 1e-6  # sum of learning rates, far below the last bit that bfloat16 has of a usual weight of 0.02, which is 1e-4
SLOW = 0.1  # a loss that fell by less than a tenth of where it began
# of the fall per update at the beginning, which a model that has found its place does not have at the end
AS_FAST = 0.5
KNOWS = (
    0.5  # of a uniform guess's loss, above which a model knows nothing of its rows yet, and could learn most of them
)
OVER_BEST = 0.02  # rise over the lowest held-out loss that matters, twice what reports call level
NOISE = 4  # standard deviations of the held-out curve's own noise, beyond which a rise is none
GAP = math.log(2)  # nats a token: unseen rows are twice as perplexing as the training rows
EPOCHS = 1.5  # rows are seen again from here on, without which none can be learnt by heart
SOME_ROWS = 20  # training answers, of which chance makes no more than a few alike
SPIKE = 5  # times the median of its neighbours
SPIKES = 3  # below that, single rows may be the cause
LOWER, HIGHER = 1 / 5, 5  # factors of a learning rate that are worth a run: smaller ones move less than a seed
NOT_FINITE = re.compile(r"\b(nan|inf|-inf)\b|no longer finite")


def find(found: Evidence) -> Iterator[Finding]:
    """The findings of a run's loss curve."""
    if finding := diverged(found):
        yield finding
    if found.spec and found.steps and not OBJECTIVES[found.spec["objective"]].on_policy:
        if finding := loss_zero(found):
            yield finding
            return
        if finding := too_high(found) or nothing_learnt(found):
            yield finding
        if finding := overfitting(found):
            yield finding
    if found.spec and (finding := spikes(found)):
        yield finding


def losses(found: Evidence) -> list[float]:
    """The loss of each step."""
    return [line["loss"] for line in found.steps]


def rate(found: Evidence, factor: float) -> dict[str, float]:
    """The learning rate times a factor, to one digit."""
    return {"learning_rate": float(f"{found.spec['learning_rate'] * factor:.0e}")}


# ---- not finite


def diverged(found: Evidence) -> Finding | None:
    """A loss, a gradient or a weight that is not finite."""
    wrong = [line for line in found.steps if not math.isfinite(line["loss"] + line.get("grad_norm", 0.0))]
    told = found.error.partition("; write ")[0] if NOT_FINITE.search(found.error) else ""
    if not wrong and not told:
        return None
    text = (
        told
        or f"the loss is {wrong[0]['loss']} and the gradient {wrong[0].get('grad_norm')} at step {wrong[0]['step']}"
    )
    finite = [value for value in losses(found) if math.isfinite(value)]
    changes: list[dict[str, Any]] = [rate(found, LOWER)] if found.spec else []
    if found.spec.get("warmup") == 0:
        changes.insert(0, {"warmup_ratio": 0.1})
    changes.append({"precision": "fp32"})
    advice = "lower the learning rate, warm up for longer, or compute in float32"
    return Finding("diverged", text, picture("loss", finite), advice, tuple(changes))


# ---- nothing trained


def loss_zero(found: Evidence) -> Finding | None:
    """A loss that is 0 from the first step, or gradients that are."""
    values = losses(found)
    norms = [line.get("grad_norm", math.nan) for line in found.steps]
    zero, still = (np.mean([abs(value) < ZERO for value in column]) for column in (values, norms))
    if abs(values[0]) < ZERO and zero >= 0.9:
        text = f"the loss is 0 in {zero:.0%} of {len(values)} steps, the first one included, so no token of the rows is trained"
        advice = (
            "look at the decoded rows in preflight.txt: what is trained stands between brackets; write a larger "
            "max_length where rows are cut"
        )
        return Finding(
            "loss-zero", text, picture("loss", values), advice, ({"max_length": 2 * found.spec["max_length"]},)
        )
    answers = found.training_answers
    if len(answers) >= SOME_ROWS and len(set(answers)) == 1:
        text = f"the answers of the first {len(answers)} training rows are all the same, {answers[0][:60]!r}, so there is nothing to learn"
        advice = "look at the rows in the data page, and at the columns that are read as prompt and completion"
        return Finding("loss-zero", text, picture("loss", values), advice)
    known = _first_seen(found)
    if known is not None and known < NOTHING_NEW:
        text = (
            f"the loss is {known:.2g} on rows that the model sees for the first time: their answers are known before "
            "they are trained, all alike or given away by their prompts"
        )
        advice = "look at the rows in the data page; rows whose answers differ, and do not stand in their own prompts"
        return Finding("loss-zero", text, picture("loss", values), advice)
    if still == 1:
        text = f"the gradient is 0 in all {len(values)} steps, so no parameter that is trained has a part in the loss"
        advice = "name other target_modules, or other patterns under train and freeze"
        return Finding("loss-zero", text, picture("gradient", norms), advice, ({"target_modules": "all-linear"},))
    return None


def _first_seen(found: Evidence) -> float | None:
    """The mean loss in the last third of the first epoch; None of another loss than that of tokens, and of few steps."""
    spec = found.spec
    if OBJECTIVES[spec["objective"]].mean_of != "tokens":
        return None
    count = int(len(found.steps) / max(_epochs(found), 1))
    return float(np.mean(losses(found)[count - count // 3 : count])) if count >= trends.MIN_STEPS else None


# ---- too large updates


def too_high(found: Evidence) -> Finding | None:
    """A training loss that is higher at the end than where it began, or that rose again after it had fallen."""
    values = losses(found)
    if len(values) < trends.MIN_STEPS or not all(map(math.isfinite, values)):
        return None
    width = max(len(values) // 8, 5)
    smooth = trends.smooth(values, width)
    start = abs(float(smooth[0]))
    low = int(smooth.argmin())
    high = low + int(smooth[low:].argmax())
    best = min(values[-len(values) // 3 :])
    if best > LOST * values[0] > 0:
        text = (
            f"the loss was {short(values[0])} before the first update, and never below {short(best)} in the last third of "
            "the steps: training made the model worse at its own rows"
        )
    elif _above(values, 0, len(smooth) - 1, width, ABOVE * start, trends.CHANCE):
        text = f"the training loss rose from {short(smooth[0])} to {short(smooth[-1])}: training made the model worse at its own rows"
    elif high - low >= width and _above(values, low, high, width, RISE * start, RISE_CHANCE):
        text = (
            f"the training loss had fallen to {short(smooth[low])} by step {found.steps[low + width // 2]['step']}, and rose to "
            f"{short(smooth[high])} by step {found.steps[high + width // 2]['step']}"
        )
    else:
        return None
    changes = [rate(found, LOWER)]
    advice = f"a lower learning rate than {found.spec['learning_rate']:.3g}"
    if found.spec.get("warmup") == 0:
        changes.append({"warmup_ratio": 0.1})
        advice += ", and a warm-up, which this run has not"
    if found.spec.get("schedule") == "constant":
        changes.append({"lr_scheduler_type": "cosine"})
        advice += "; a scheduler that lets it fall (cosine)"
    return Finding("learning-rate-too-high", text, picture("loss", values), advice, tuple(changes))


def _above(values: list[float], low: int, high: int, width: int, least: float, chance: float) -> bool:
    """Whether the `width` losses from `high` on are larger than those from `low` on by more than `least` and by more than chance.

    Compared as logarithms, since a large loss has a large noise; the noise of a window is its own, and no less than that of the curve.
    """
    first, last = (np.array(values[start : start + width]) for start in (low, high))
    if last.mean() - first.mean() <= least:
        return False
    scale = abs(float(np.mean(values[:width])))
    logs = [np.log(np.maximum(part, 0) / scale + FLOOR) for part in (values, first, last)]
    everywhere = trends.roughness(logs[0].tolist())
    error = np.sqrt(sum(max(float(part.std(ddof=1)), everywhere) ** 2 / width for part in logs[1:]))
    return bool(stats.t.sf((logs[2].mean() - logs[1].mean()) / max(error, 1e-12), 2 * width - 2) < chance)


# ---- nothing learnt

HIGH = 10  # times the default: above it a flat loss is not for want of a higher rate


def nothing_learnt(found: Evidence) -> Finding | None:
    """A loss that stays where it began, or that falls so slowly that it is still falling as fast at the end."""
    values = losses(found)
    moved = trends.shift(values)
    if moved is None or not all(map(math.isfinite, values)):
        return None
    scale = abs(moved.first)
    best = -moved.bounds()[0] / scale  # the largest improvement that the noise allows
    usual_low, default = _usual(found.spec)
    given = found.spec["learning_rate"]
    way = sum(line.get("learning_rate", 0.0) for line in found.steps)
    if 0 < way < STILL and not moved.falls():
        text = f"the learning rates of all {len(values)} steps add up to {way:.1g}, and Adam moves no weight much further than that"
        return _too_low(found, text, default)
    if best < MATERIAL and not _margin_rises(found):
        text = (
            f"the loss stayed at {short(moved.first)}: in {len(values)} steps it improved by {max(best, 0):.2%} at most"
        )
        if given < usual_low:
            return _too_low(
                found,
                f"{text}, at a learning rate of {given:.3g}, where {short(usual_low)} is the least that is usual",
                default,
            )
        method = "lora" if METHODS[found.spec["method"]].full else "full"
        advice = "another method or more target_modules, where the rate is right; the rate itself, where the task is new to the model"
        if given > HIGH * default:
            advice = f"another method or more target_modules; the rate of {given:.3g} is high already"
            return Finding("flat-loss", text, picture("loss", values), advice, ({"method": method},))
        return Finding("flat-loss", text, picture("loss", values), advice, (rate(found, HIGHER), {"method": method}))
    fall = -moved.change / scale
    if not moved.falls() or fall >= SLOW:
        return None
    text = f"the loss fell by {fall:.1%} in {len(values)} steps"
    guess = math.log(found.vocabulary or math.inf)
    if _as_fast_as_ever(found, values):
        text += ", and as fast in the second half of the updates as in the first"
    elif OBJECTIVES[found.spec["objective"]].mean_of == "tokens" and moved.last > KNOWS * guess:
        text += f", to {short(moved.last)} nats a token, where a guess among all {found.vocabulary} tokens has {short(guess)}"
    else:
        return None
    return _too_low(found, text, max(default, given * HIGHER))


def _too_low(found: Evidence, text: str, better: float) -> Finding:
    changes = ({"learning_rate": float(f"{better:.0e}")}, {"epochs": 3})
    advice = f"a learning rate of {better:.0e} (it is {found.spec['learning_rate']:.3g}), or more epochs"
    return Finding("learning-rate-too-low", text, picture("loss", losses(found)), advice, changes)


def _usual(spec: dict[str, Any]) -> tuple[float, float]:
    """The lowest usual learning rate of a run's method and objective, and the default."""
    from_demonstrations = OBJECTIVES[spec["objective"]].from_demonstrations
    row = METHODS[spec["method"]]
    default = row.learning_rates[not from_demonstrations]
    usual = row.usual_learning_rates if from_demonstrations else None
    return (usual or (default * LOWER, 0))[0] * 0.999, default


def _margin_rises(found: Evidence) -> bool:
    """Whether chosen and rejected completions move apart, which may leave a loss of several parts where it was."""
    name = OBJECTIVES[found.spec["objective"]].measures.get("margin")
    moved = trends.shift([line[name] for line in found.steps if name in line]) if name else None
    return moved is not None and moved.rises(0.05)


def _as_fast_as_ever(found: Evidence, values: list[float]) -> bool:
    """Whether the loss falls by as much per update in the second half as in the first, where an update is as large as its rate."""
    done = np.cumsum([line.get("learning_rate", 0.0) for line in found.steps])
    if done[-1] == 0 or OBJECTIVES[found.spec["objective"]].preference_loss:
        return False
    early = done <= done[-1] / 2
    if min(early.sum(), (~early).sum()) < trends.MIN_STEPS:
        return False
    first, second = (stats.linregress(done[half] / done[-1], np.array(values)[half]) for half in (early, ~early))
    slowest = second.slope + stats.norm.ppf(0.99) * second.stderr  # of the second half, as far as its noise allows
    return first.slope < 0 and slowest < AS_FAST * first.slope


# ---- overfitting


def overfitting(found: Evidence) -> Finding | None:
    """A held-out loss that turned, or training rows that are far better known than others."""
    return _turned(found) or _gap(found)


def _turned(found: Evidence) -> Finding | None:
    logged = found.train.get("held_out", {}).get("logged", "eval_loss")
    logged = "eval_loss" if any("eval_loss" in line for line in found.measured) else logged
    points = [(line["step"], line[logged]) for line in found.measured if logged in line]
    if len(points) < 4:
        return None
    values = [value if logged == "eval_loss" else -value for _, value in points]
    at = int(np.argmin(values))
    after = values[at + 1 :]
    kept = found.train.get("held_out", {}).get("kept_step")
    if len(after) < 2 or kept == points[at][0]:
        return None
    rise = min(np.mean(after[-2:]), after[-1]) - values[at]
    if rise <= max(OVER_BEST * abs(values[at]), NOISE * trends.roughness(values)) or _loss_rises(found, points[at][0]):
        return None
    name = logged.removeprefix("eval_")
    text = (
        f"overfits from step {points[at][0]} on: the {name} of held-out rows was best there ({short(points[at][1])}) and was "
        f"{short(points[-1][1])} at step {points[-1][0]}, while the training loss fell to {short(np.mean(losses(found)[-5:]))}"
    )
    epochs = found.spec["epochs"] * points[at][0] / max(found.steps[-1]["step"], 1)
    fewer = (
        {"epochs": float(f"{max(epochs, 0.1):.2g}")}
        if not found.spec.get("max_steps")
        else {"max_steps": points[at][0]}
    )
    return Finding(
        "overfitting", text, picture(f"held-out {name}", [value for _, value in points]),
        "keep the best step (keep: best, or early_stopping), take fewer epochs, or collect more rows", ({"keep": "best"}, fewer),
    )  # fmt: skip


def _loss_rises(found: Evidence, step: int) -> bool:
    """Whether the training loss rose as well after a step, so that the model is not learning by heart but losing what it learnt."""
    after = [line["loss"] for line in found.steps if line["step"] >= step]
    moved = trends.shift(after)
    return moved is not None and moved.rises()


def _gap(found: Evidence) -> Finding | None:
    """Held-out rows that are far more perplexing than the training rows in the last epoch."""
    spec = found.spec
    epochs = _epochs(found)
    if OBJECTIVES[spec["objective"]].mean_of != "tokens" or epochs < EPOCHS or spec.get("loss_type") == "dft":
        return None
    kept = found.train.get("held_out", {})
    if kept and kept["kept_step"] != found.train["steps"]:  # the best step was kept, and later ones count no more
        return None
    measured = [line["eval_loss"] for line in found.measured if "eval_loss" in line]
    row = own_metric(found, "perplexity")
    if not measured and not row:
        return None
    unseen = measured[-1] if measured else math.log(row["low"])
    seen = float(np.mean(losses(found)[-max(int(len(found.steps) / epochs), 1) :]))
    if not math.isfinite(unseen) or unseen - seen < GAP:
        return None
    what = (
        f"one of {short(unseen)}" if measured else f"one of {short(math.log(row['value']))} (at least {short(unseen)})"
    )
    text = f"the training rows have a loss of {short(seen)} in the last of {short(epochs)} epochs, and held-out rows {what}"
    drawn = picture("training loss", losses(found)) + (f"   {picture('held-out loss', measured)}" if measured else "")
    advice = (
        "measure held-out rows on the way and keep the best step (keep: best), take fewer epochs, or collect more rows"
    )
    return Finding("overfitting", text, drawn, advice, ({"keep": "best"}, {"epochs": 1}))


def _epochs(found: Evidence) -> float:
    """How often a run saw its rows."""
    spec = found.spec
    rows = found.data.get("train")
    return found.steps[-1]["step"] * spec["batch_size"] / rows if rows and not spec.get("packing") else spec["epochs"]


# ---- gradients


def spikes(found: Evidence) -> Finding | None:
    """Gradients that jump, where neither clipping nor warm-up holds them."""
    lines = [line for line in found.steps if math.isfinite(line.get("grad_norm", math.nan))]
    lines = [
        line for line in lines if line.get("reward_std", 1.0) > 0
    ]  # equal rewards have no gradient to compare with
    norms = [line["grad_norm"] for line in lines]
    if len(norms) < trends.MIN_STEPS:
        return None
    places, typical = trends.jumps(norms, SPIKE), float(np.median(norms))
    limit = found.spec.get("max_grad_norm", 1.0)
    unheld = [i for i in places if norms[i] <= limit]
    early = [i for i in places if i < max(len(norms) // 10, 3)]
    if len(unheld) >= SPIKES:
        what, changes = f"clipping at {limit:g} lets them through", ({"max_grad_norm": 1.0}, rate(found, LOWER))
    elif len(early) >= SPIKES and found.spec.get("warmup") == 0:
        what, changes = "there is no warm-up", ({"warmup_ratio": 0.1}, rate(found, LOWER))
    else:
        return None
    top = max(places, key=lambda i: norms[i])
    text = (
        f"{len(places)} of {len(norms)} steps have a gradient of more than {SPIKE} times that of their neighbours, up to "
        f"{short(norms[top])} at step {lines[top]['step']} (the median is {short(typical)}), and {what}"
    )
    return Finding(
        "gradient-spikes", text, picture("gradient", norms), "clip gradients (max_grad_norm: 1), and warm up", changes
    )
