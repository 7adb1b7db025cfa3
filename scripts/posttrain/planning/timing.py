"""How long a job takes: from this folder's records, from a probe of this machine, or from a table of typical machines.

A job takes `start + work / speed`. What is known best decides both: records of the same run, else of the same base and method, else
of the same rule, else of the same kind of work; then the probe; then the table.
"""

import re
from statistics import fmean
from typing import Any, NamedTuple

from posttrain.objectives import OBJECTIVES
from posttrain.planning.records import Measured
from posttrain.planning.work import COPY, ROWS, SCORE, TRAIN, Work

# Seconds that a job takes however little it has to do, its libraries being there already (runtime/fork_server.py): medians of
# the demo and of config/test/tiny.yaml on two cores, `python bench/plan.py`.
START = dict.fromkeys(OBJECTIVES, 5.0) | {
    **{"base": 12.0, "prune": 8.0, "data": 1.5, "mix": 1.0, "overlap": 1.0, "data_report": 2.0},
    **{
        "tokens": 1.0,
        "preflight": 2.0,
        "logprobs": 2.0,
        "topk": 2.0,
        "generate": 1.0,
        "select": 4.0,
        "merge": 3.0,
        "eval": 2.0,
        "loss": 1.0,
    },
    **{
        "export": 3.0,
        "export_reference": 4.0,
        "prove_export": 8.0,
        "export_table": 1.0,
        "predict": 3.0,
        "judge": 3.0,
    },
    **{"sweep": 4.0, "report": 4.0, "card": 1.0, "rating_page": 1.0, "ratings": 1.0},
}
OTHER_START = 2.0
IMPORTS = 12.0  # where there is a GPU, each job imports torch and TRL itself
# Dense peak of matrix products in bf16, operations a second, as NVIDIA's data sheets have it (T4, V100: fp16).
PEAKS = {
    "H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "L40": 181e12, "A40": 150e12, "A10": 125e12, "L4": 121e12,
    "4090": 165e12, "3090": 71e12, "V100": 125e12, "T4": 65e12,
}  # fmt: skip
OTHER_PEAK = 100e12
# Share of the peak that training reaches, and scoring: Chowdhery et al. 2022 (PaLM) report 21 to 46 % for trainings of large models.
REACHED = {TRAIN: 0.35, SCORE: 0.25}
# Of a thread of a processor, operations a second; with bfloat16 in hardware (AMX, AVX512-BF16) and without. Scoring is in float32.
THREAD = {(TRAIN, True): 8e10, (TRAIN, False): 3e10, (SCORE, True): 1e11, (SCORE, False): 3e10}
PARAMETERS_A_SECOND, ROWS_A_SECOND = 1.5e7, 2000.0
# How far off an estimate may be, either way, by where it comes from; measured by bench/plan.py.
FACTORS = {"record": 1.3, "similar run": 1.6, "other job": 2.0, "probe": 2.0, "formula": 4.0}
GUESSED = 1.5  # further, where the rows or tokens are not counted yet
PRIOR = 0.5  # weight of START beside one record


class Machine(NamedTuple):
    """What computes here."""

    gpu: str | None
    """its name"""
    threads: int
    bf16: bool
    """multiplied in hardware"""


class Estimate(NamedTuple):
    """How long a job takes."""

    seconds: float | None
    """None where nothing is known of the model"""
    low: float | None
    high: float | None
    source: str
    """record, similar run, other job, probe or formula; there, where it is only linked"""
    basis: str
    """in words"""


# A training that has a finished copy, which its job only links.
LINKED = Estimate(1.0, 0.3, 10.0, "there", "its finished training is there and is only linked")


def estimate(rule: str, run: str, work: Work, base: str, method: str, known: "Known") -> Estimate:
    """The time of a job.

    Args:
        rule: its rule.
        run: the run, base or dataset that it is about, without overrides.
        work: what it has to do.
        base: that its model descends from; empty where it has none.
        method: of a training or merge; else empty.
        known: records, the probe, and the machine.
    """
    if work.amount is None:
        return Estimate(None, None, None, "", "nothing here tells the base's size before it is built")
    start = START.get(rule, OTHER_START) + (IMPORTS if known.machine.gpu and work.kind != ROWS else 0)
    for source, words, rows in _records(rule, run, base, method, work.kind, known.records):
        if rows:
            seconds = _by_records(start, work.amount, rows)
            return _ranged(seconds, source, f"{words}, {len(rows)} job{'s' if rows[1:] else ''}", work)
    speed, source, words = known.speed(work.kind)
    return _ranged(start + (work.amount / speed if work.amount else 0), source, words, work)


def _records(
    rule: str, run: str, base: str, method: str, kind: str, found: list[Measured]
) -> list[tuple[str, str, list]]:
    """The records that an estimate may rest on, the nearest first."""
    own = [row for row in found if row.rule == rule and row.work.amount is not None]
    same = [row for row in own if row.base == base and row.method == method]
    others = [row for row in found if row.work.kind == kind and row.work.amount and kind in (TRAIN, SCORE)]
    return [
        ("record", f"{rule} of {run}", [row for row in own if row.run == run]),
        ("similar run", f"{rule} on {base}" if base else rule, same),
        ("similar run", rule, own),
        (
            "other job",
            "training" if kind == TRAIN else "scoring",
            [row for row in others if row.base == base] or others,
        ),
    ]


def _by_records(start: float, amount: float, rows: list[Measured]) -> float:
    """`a + b amount`, least squares of relative errors, `a` near `start`; neither is negative."""
    shift = [START.get(row.rule, OTHER_START) - start for row in rows]
    points = [(row.work.amount, max(0.01, row.seconds - own)) for row, own in zip(rows, shift, strict=True)]
    # Of the sum over records of ((a + b w - t) / t)^2, and PRIOR ((a - start) / mean of t)^2.
    weights = [1 / seconds**2 for _, seconds in points]
    prior = PRIOR / fmean(seconds for _, seconds in points) ** 2
    s0 = sum(weights) + prior
    s1 = sum(v * w for v, (w, _) in zip(weights, points, strict=True))
    s2 = sum(v * w * w for v, (w, _) in zip(weights, points, strict=True))
    t0 = sum(v * t for v, (_, t) in zip(weights, points, strict=True)) + prior * start
    t1 = sum(v * w * t for v, (w, t) in zip(weights, points, strict=True))
    determinant = s0 * s2 - s1 * s1
    constant = (t0 - prior * start) / (s0 - prior)
    if determinant <= 0:
        return constant
    a, b = (t0 * s2 - t1 * s1) / determinant, (s0 * t1 - s1 * t0) / determinant
    if b < 0:
        return constant
    return b * amount + a if a >= 0 else amount * t1 / s2


def _ranged(seconds: float, source: str, basis: str, work: Work) -> Estimate:
    factor = FACTORS[source] * (1 if work.known else GUESSED)
    return Estimate(seconds, seconds / factor, seconds * factor, source, basis)


class Known(NamedTuple):
    """What estimates may rest on."""

    records: list[Measured]
    machine: Machine
    probe: dict[str, Any] | None

    def speed(self, kind: str) -> tuple[float, str, str]:
        """Units of work a second, where that comes from, and how it is known."""
        if kind not in (TRAIN, SCORE):
            return (
                (PARAMETERS_A_SECOND if kind == COPY else ROWS_A_SECOND if kind == ROWS else 1.0),
                "formula",
                "typical",
            )
        if self.probe:
            return self.probe[kind], "probe", f"{self.probe[kind] / 1e9:,.0f} GFLOP/s measured here"
        speed = typical(self.machine, kind)
        words = self.machine.gpu or f"{self.machine.threads} threads"
        return speed, "formula", f"{speed / 1e9:,.0f} GFLOP/s, typical of {words}"


def typical(machine: Machine, kind: str) -> float:
    """Operations a second of a machine like this one."""
    if machine.gpu:
        peak = next((peak for name, peak in PEAKS.items() if re.search(rf"\b{name}", machine.gpu)), OTHER_PEAK)
        return REACHED[kind] * peak
    return THREAD[kind, machine.bf16] * machine.threads
