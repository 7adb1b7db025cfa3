"""When a training ends early and which step it keeps, decided by what is measured on held-out rows on the way.

Everything here follows from a run's keys and from the measurements so far, which lie in the trainer's log and so in every
checkpoint: a resumed training decides as one that was never interrupted.

A metric is one of the objective's own, from the loss that it trains (`loss`, `accuracy`, `margin`, `reward`), or one of
generated answers: a metric of `text_metrics` that is a mean over examples, or the user's own as `FILE.py:NAME`.
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

from posttrain.metrics import text_metrics
from posttrain.objectives import OBJECTIVES
from posttrain.runtime import user_code

# Metrics of answers that are a mean over examples: BLEU, chrF and error rates are of a corpus, `regex` needs a pattern.
NOT_MEANS = ("bleu", "chrf", "wer", "cer", "regex", *text_metrics.OF_SOME)
OF_ANSWERS = tuple(name for name in text_metrics.METRICS if name not in NOT_MEANS)
LOWER_IS_BETTER = ("loss",)

MEASUREMENTS = 10  # of a training, where `measure_every` is not set
ROWS = 100  # held-out rows of a measurement
MAX_NEW_TOKENS = 128  # of an answer, where nothing else says so
MIN_ROWS = 30  # held-out rows below which chance decides which step is best
EVALUATED = "eval_"  # what transformers puts before the name of a number of held-out rows


class Plan(NamedTuple):
    """How a run is measured while it trains, and what follows from that."""

    metric: str
    """as the configuration names it"""
    logged: str
    """as train.jsonl names it"""
    of_answers: bool
    """whether the model generates answers for it"""
    every: int | None
    """steps between two measurements (ppo: rollouts); None is a tenth of them"""
    rows: int
    """held-out rows that are measured"""
    patience: int | None
    """measurements in a row without an improvement after which training ends; None for never"""
    min_change: float
    """what an improvement is more than"""
    keep_best: bool
    """whether the best step is kept, or the last"""
    max_new_tokens: int
    """of an answer"""

    @property
    def sign(self) -> int:
        """1 where higher is better, -1 where lower is."""
        return -1 if self.metric in LOWER_IS_BETTER else 1

    def steps_between(self, steps: int) -> int:
        """Steps from one measurement to the next in a training of `steps` (ppo: both are rollouts)."""
        return self.every or max(1, -(-steps // MEASUREMENTS))

    def measurements(self, steps: int) -> int:
        """How many there are in a training of `steps` that runs to its end, after whose last step there is one."""
        return -(-steps // self.steps_between(steps))


class Decision(NamedTuple):
    """What the measurements so far say."""

    best: int
    """the step with the best value, the first of equal ones"""
    value: float
    """its value"""
    stop: bool
    """whether training ends"""


# ---- the plan


def plan(spec: dict[str, Any]) -> Plan | None:
    """How the run of a spec is measured during training; None where it is not."""
    if not {"early_stopping", "keep", "measure_every"} & spec.keys():
        return None
    own, table = OBJECTIVES[spec["objective"]].measures, spec.get("early_stopping", {})
    metric = table.get("metric") or next(iter(own))
    return Plan(
        metric=metric,
        logged=EVALUATED + (own.get(metric) or _of_its_own(user_code.label(metric))),
        of_answers=metric not in own or metric == "reward",
        every=spec.get("measure_every"),
        rows=spec.get("measure_rows", ROWS),
        patience=table.get("patience"),
        min_change=table.get("min_change", 0.0),
        keep_best=spec.get("keep") == "best",
        max_new_tokens=spec.get("max_new_tokens", table.get("max_new_tokens", MAX_NEW_TOKENS)),
    )


def _of_its_own(label: str) -> str:
    """A metric's name in train.jsonl, where a user's may be called as a number of the trainer's is."""
    taken = {name for row in OBJECTIVES.values() for pair in row.measures.items() for name in pair}
    return f"own_{label}" if label in taken else label


def too_short(planned: Plan, steps: int, source: str) -> Iterator[str]:
    """Why a training of `steps` (ppo: rollouts) is too short for its plan; `source` is the key that says how long it is."""
    between, count = planned.steps_between(steps), planned.measurements(steps)
    if between > steps:
        yield f"measure_every {between} is more than the {steps} steps of the training; write a smaller one, or a larger {source}"
    elif planned.patience is not None and planned.patience + 1 >= count:
        yield (
            f"early_stopping: patience {planned.patience} can never end a training of {steps} steps that is measured {count} "
            f"time{'s' * (count != 1)}; write a smaller measure_every or patience, or a larger {source}"
        )


def no_answers(spec: dict[str, Any], shape: str | None) -> str | None:
    """Why rows of this shape have nothing that the metric of a spec could read; None where they have, or where it reads none."""
    planned = plan(spec)
    if planned is None or not planned.of_answers or planned.metric == "reward":
        return None
    instead = next(iter(OBJECTIVES[spec["objective"]].measures))
    if shape == "text":
        return f"early_stopping.metric: {planned.metric} reads answers, and rows of type text have no prompts; write metric: {instead}"
    if shape in ("prompts", "unpaired_preference") and not user_code.is_own(planned.metric):
        return (
            f"early_stopping.metric: {planned.metric} compares an answer with a reference, which rows of type {shape} have not; "
            f"write metric: {instead}, or your own as FILE.py:NAME"
        )
    return None


def nothing_held_out(shares: list[float | str]) -> bool:
    """Whether none of the datasets whose `validation` these are holds anything out."""
    return all(share == 0 for share in shares)


def steps(spec: dict[str, Any], rows: int, are_pairs: bool) -> int:
    """Optimiser steps (ppo: rollouts) of a training on `rows`."""
    if spec["max_steps"]:
        return spec["max_steps"]
    objective = OBJECTIVES[spec["objective"]]
    trained = rows * (2 if are_pairs and objective.mean_of == "labels" else 1) * spec["epochs"]
    if objective.on_policy:
        passes = spec.get("minibatches", 1) if "generations" in spec else 1
        return passes * max(1, round(trained * spec.get("generations", 1) / spec["batch_size"]))
    return -(-max(1, round(trained)) // spec["batch_size"])


def faults(spec: dict[str, Any], count: int, held_out: int, evaluated: int) -> Iterator[tuple[str, str]]:
    """What is wrong with the plan of a run for its rows: "error" or "warning", and a sentence.

    Args:
        count: optimiser steps (ppo: rollouts) of the training.
        held_out: rows of its dataset that are held out.
        evaluated: how many of these it is evaluated on.
    """
    planned, name = plan(spec), spec["data"]["name"]
    measured_rows = min(planned.rows, held_out)
    if not held_out:
        yield "error", f"{name} holds no row out to measure; write a larger validation under datasets.{name}"
        return
    for sentence in too_short(planned, count, "max_steps, epochs or dataset"):
        yield "error", sentence
    if not (planned.keep_best or planned.patience):
        return
    if measured_rows < MIN_ROWS:
        yield (
            "warning",
            f"{planned.metric} is measured on {measured_rows} held-out rows, so that chance may choose the step; hold out more "
            f"(validation under datasets.{name})",
        )
    shared = max(0, measured_rows + min(evaluated, held_out) - held_out)
    if shared:
        yield (
            "warning",
            f"{shared} of the {measured_rows} held-out rows by which the step is chosen are evaluated as well, which flatters this "
            f"run there; hold out more (validation under datasets.{name}), or measure fewer (measure_rows, evaluation.limit)",
        )


# ---- the measurements


def measured(planned: Plan, log: list[dict[str, Any]]) -> list[tuple[int, float]]:
    """Steps and values of the measurements in a trainer's log or in the lines of a train.jsonl, in their order."""
    return [(line["step"], line[planned.logged]) for line in log if planned.logged in line]


def decide(planned: Plan, points: list[tuple[int, float]]) -> Decision | None:
    """What follows from the measurements so far; None before the first.

    Training ends once `patience` measurements in a row have not been better, by more than `min_change`, than the one that
    improved last. The best step is that of the best value, however small its lead.
    """
    if not points:
        return None
    best, reference, waited = points[0], -math.inf, 0
    for step, value in points:
        if planned.sign * value > planned.sign * best[1]:
            best = (step, value)
        if planned.sign * value - reference > planned.min_change:
            reference, waited = planned.sign * value, 0
        else:
            waited += 1
    return Decision(*best, planned.patience is not None and waited >= planned.patience)


# ---- in words


def in_words(found: dict[str, Any] | None) -> str:
    """What `held_out` of a train.json says, as sentences; nothing where nothing was measured."""
    if not found:
        return ""
    best, unit = found["best"], f"{found['metric']} of {found['rows']} held-out rows"
    text = f"Of {found['measurements']} measurements, {unit} was best at step {best['step']:,} ({best['value']:.4g})."
    if found["stopped_at"] is not None:
        text += f" Training stopped early, after step {found['stopped_at']:,} of {found['planned_steps']:,}."
    return f"{text} The model is that of step {found['kept_step']:,}."
