"""Count how often a verdict is a false alarm, and how often it finds the difference that it says it could.

    python bench/calibration.py

For each number of examples 200 comparisons of two models that are equally good, then 1000 of two that differ by the median
`detectable` of those, which is stated to be found with a power of 80 %. Of right and wrong answers two models differ in one
of five, or as many as the planted gain needs; of a solution's loss a token, most of the spread is the example's and shared.
Then 200 sweeps of three settings that are equally good, each trained with a few seeds, on 100 examples: how often any of
their three comparisons is a verdict after the correction. Trainings of one setting differ by 0.02 or 0.1: nats a token, or
shares of right answers. Seeded; intervals are the exact ones of Clopper and Pearson (1934), of 95 %. Exits with 1 where the
alarms cannot be 5 % by chance (of several such counts, by Holm) or a gain is found 5 points more or less often than stated.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy.stats import binomtest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

from posttrain.statistics import METRICS, POWER, comparison, holm
from posttrain.sweeps import compare_all, measure

SAME, DIFFERENT = 200, 1000  # comparisons of models that are equally good, and of others
SIZES = (20, 100, 500)
ALARMS = 0.05
RIGHT, DISCORDANT = 0.4, 0.2  # shares of the examples that a model gets right, and that one model alone does
LOSS, SPREAD, NOISE = 1.2, 0.4, 0.1  # nats a token: mean, between examples, between two models on an example
SETTINGS, SEEDS, TRAININGS = 3, (2, 3), (0.02, 0.1)  # of a sweep; spread between trainings in nats and shares


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    print(f"{'metric':<12}  {'n':>3}  {'false alarms':<24}  {'planted':>9}  found (stated: {POWER:.0%})")
    ps, misses = [], []
    for name, pair in (("exact_match", answers), ("perplexity", losses)):
        for n in SIZES:
            random = np.random.default_rng(n)
            same = [comparison(METRICS[name], *pair(random, n, 0.0)) for _ in range(SAME)]
            planted = float(np.median([row["detectable"] for row in same if row["verdict"] == "no evidence"]))
            other = [comparison(METRICS[name], *pair(random, n, planted)) for _ in range(DIFFERENT)]
            alarms = sum(row["verdict"] != "no evidence" for row in same)
            found = sum(row["verdict"] == "better" for row in other)
            size = f"{100 * planted:.1f} pts" if METRICS[name].share else f"{planted:.3f}"
            print(f"{name:<12}  {n:>3}  {share(alarms, SAME):<24}  {size:>9}  {share(found, DIFFERENT)}", flush=True)
            ps.append(binomtest(alarms, SAME, ALARMS, "greater").pvalue)
            misses.append(abs(found / DIFFERENT - POWER))
    print(f"\n{'sweeps of':<12}  {'seeds':>5}  {'between trainings':>17}  with a false alarm")
    for name, trained in (("exact_match", answering), ("perplexity", losing)):
        for seeds in SEEDS:
            for spread in TRAININGS:
                random = np.random.default_rng(seeds)
                alarms = sum(sweep_alarms(random, name, trained, seeds, spread) for _ in range(SAME))
                print(f"{name:<12}  {seeds:>5}  {spread:>17}  {share(alarms, SAME)}", flush=True)
                ps.append(binomtest(alarms, SAME, ALARMS, "greater").pvalue)
    sys.exit(min(holm(ps)) < 0.05 or max(misses) > 0.05)


def answers(random: np.random.Generator, n: int, gain: float) -> tuple[np.ndarray, np.ndarray]:
    """Zeros and ones of two models on n questions; ours is right more often by `gain`."""
    discordant = max(DISCORDANT, gain)
    both = RIGHT - DISCORDANT / 2
    odds = [both, (discordant + gain) / 2, (discordant - gain) / 2, 1 - both - discordant]
    outcome = random.choice(4, size=n, p=odds)  # both right, ours alone, theirs alone, none
    return np.array([outcome <= 1], float), np.array([(outcome == 0) | (outcome == 2)], float)


def losses(random: np.random.Generator, n: int, gain: float) -> tuple[np.ndarray, np.ndarray]:
    """Log-probabilities and tokens of two models on n solutions; our perplexity is lower by `gain`."""
    tokens = random.integers(20, 200, n).astype(float)
    example = random.gamma((LOSS / SPREAD) ** 2, SPREAD**2 / LOSS, n)
    shift = np.log(1 - gain / true_perplexity())
    ours, theirs = (example + NOISE * random.standard_normal(n) + change for change in (shift, 0.0))
    return np.array([-ours * tokens, tokens]), np.array([-theirs * tokens, tokens])


def sweep_alarms(random: np.random.Generator, name: str, trained: Callable, seeds: int, spread: float) -> bool:
    """Whether a sweep of equally good settings has a verdict."""
    settings = [measure(METRICS[name], columns) for columns in trained(random, 100, seeds, spread)]
    rows = compare_all({name: METRICS[name]}, {name: settings})
    return any(row["verdict"] != "no evidence" for row in rows.values())


def answering(random: np.random.Generator, n: int, seeds: int, spread: float) -> list[list[np.ndarray]]:
    """Zeros and ones of every setting's trainings: an example is as easy for all, a training has its luck."""
    easy = random.choice([0.05, 0.5, 0.95], size=n, p=[0.45, 0.2, 0.35])
    lucky = spread * random.standard_normal((SETTINGS, seeds, 1))
    shifts = 0.3 * random.standard_normal((SETTINGS, 1, n)) * (easy == 0.5)  # what suits one setting and not another
    return [[row[None] for row in rows] for rows in (random.random((SETTINGS, seeds, n)) < easy + lucky + shifts) * 1.0]


def losing(random: np.random.Generator, n: int, seeds: int, spread: float) -> list[list[np.ndarray]]:
    """Log-probabilities and tokens of every setting's trainings."""
    tokens = random.integers(20, 200, n).astype(float)
    example = random.gamma((LOSS / SPREAD) ** 2, SPREAD**2 / LOSS, n)
    setting = NOISE * random.standard_normal((SETTINGS, 1, n))
    trained = spread * random.standard_normal((SETTINGS, seeds, 1)) + NOISE / 2 * random.standard_normal(
        (SETTINGS, seeds, n)
    )
    return [[np.array([-loss * tokens, tokens]) for loss in losses] for losses in example + setting + trained]


def true_perplexity() -> float:
    """Of all the examples that could be drawn: their length says nothing of their loss."""
    return float(np.exp(LOSS))


def share(count: int, of: int) -> str:
    """With its exact 95 % interval."""
    found = binomtest(count, of).proportion_ci(method="exact")
    return f"{count / of:5.1%} [{found.low:.1%}, {found.high:.1%}]"


if __name__ == "__main__":
    main()
