"""Count how often a verdict is a false alarm, how often it finds the difference that it says it could, and what intervals hold.

    python bench/calibration.py [--quick]

For each design 1000 comparisons of two models that are equally good, then 1000 of two that differ by the median `detectable` of
those, which is stated to be found with a power of 80 %. A design is so many prompts, each with as many rows; rows of one prompt
have a correlation of one half, in the models' difference and in each model's value. Of right and wrong answers two models differ
in one of five, or as many as the planted gain needs; of a solution's loss a token, most of the spread is the example's and
shared. `as single rows` are the alarms where the clusters are not told. `covered` is how often the interval of one model's value
has the true value in it. Below ten prompts there is no verdict, and nothing that could be found.

Then 500 sweeps of three settings that are equally good, each trained with a few seeds, on 100 examples or on 33 prompts of 3
rows: how often any of their three comparisons is a verdict after the correction. Trainings of one setting differ by 0.02 or 0.1:
nats a token, or shares of right answers. Seeded; intervals are the exact ones of Clopper and Pearson (1934), of 95 %. Exits with
1 where the alarms cannot be 5 % by chance (of all such counts, by Holm), where a gain is found 5 points less or 15 points more
often than stated, or where an interval of a value holds the truth in less than 90 % of the cases.
"""

import argparse
import itertools
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy.stats import binomtest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

from posttrain.metrics.paired import comparison, measure
from posttrain.metrics.statistics import METRICS, POWER, holm, summary
from posttrain.reports.sweeps import compare_all

SAME, DIFFERENT, SWEEPS = 1000, 1000, 500  # comparisons of models that are equally good, and of others; sweeps
QUICK = 10  # how many times fewer with --quick
ALARMS, COVERED = 0.05, 0.90
FOUND = (-0.05, 0.15)  # how much less and more often than stated a gain may be found
DESIGNS = ((6, 1), (12, 1), (20, 1), (120, 1), (500, 1), (33, 3), (10, 10), (100, 3))  # prompts, rows of each
CORRELATION = 0.5  # of the rows of one prompt
RIGHT, DISCORDANT = 0.4, 0.2  # shares of the examples that a model gets right, and that one model alone does
LOSS, SPREAD, NOISE = 1.2, 0.4, 0.1  # nats a token: mean, between examples, between two models on an example
SETTINGS, SEEDS, TRAININGS = 3, (2, 3), (0.02, 0.1)  # of a sweep; spread between trainings in nats and shares

Pair = tuple[np.ndarray, np.ndarray]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the comparisons")
    fewer = QUICK if parser.parse_args().quick else 1
    titles = {
        "metric": 12,
        "prompts x rows": 14,
        "false alarms": 22,
        "as single rows": 14,
        "covered": 7,
        "  planted": 9,
    }
    print(*(f"{title:<{width}}" for title, width in titles.items()), f"found ({POWER:.0%})")
    ps, bad = [], []
    for name, pair in (("exact_match", answers), ("perplexity", losses)):
        for design in DESIGNS:
            p, wrong = verdicts_of(name, pair, design, SAME // fewer, DIFFERENT // fewer)
            ps.append(p)
            bad += wrong
    print(f"\n{'sweeps of':<12} {'prompts x rows':<14} {'seeds':>5} {'between trainings':>17}  with a false alarm")
    for name, trained in (("exact_match", answering), ("perplexity", losing)):
        for (prompts, rows), seeds, spread in itertools.product(((100, 1), (33, 3)), SEEDS, TRAININGS):
            random = np.random.default_rng(seeds)
            total = SWEEPS // fewer
            alarms = sum(sweep_alarms(random, name, trained, (prompts, rows), seeds, spread) for _ in range(total))
            print(f"{name:<12} {f'{prompts} x {rows}':<14} {seeds:>5} {spread:>17}  {share(alarms, total)}", flush=True)
            ps.append(binomtest(alarms, total, ALARMS, "greater").pvalue)
    if min(holm(ps)) < 0.05:
        bad.append("there are more alarms than 5 %")
    print("\n".join(["", *bad]) if bad else "\nas stated")
    sys.exit(bool(bad) and fewer == 1)


def verdicts_of(
    name: str, pair: Callable, design: tuple[int, int], same: int, different: int
) -> tuple[float, list[str]]:
    """Print a design's line; returns the p of so many alarms, and what is not as stated."""
    metric, random = METRICS[name], np.random.default_rng(design)
    prompts, rows = design
    clusters = np.repeat(np.arange(prompts), rows) if rows > 1 else None
    drawn = [pair(random, design, 0.0) for _ in range(same)]
    found = [comparison(metric, *sides, clusters) for sides in drawn]
    alarms = sum(row["verdict"] != "no evidence" for row in found)
    single = "" if clusters is None else f"{np.mean([comparison(metric, *sides)['p'] < ALARMS for sides in drawn]):.1%}"
    values = [summary(metric, ours, clusters) for ours, _ in drawn]
    covered = float(np.mean([row["low"] <= TRUTH[name] <= row["high"] for row in values]))
    detectable = [
        row["detectable"] for row in found if row["verdict"] == "no evidence" and row["detectable"] is not None
    ]
    wrong = [f"{name} {design}: intervals hold the truth in {covered:.1%}"] if covered < COVERED else []
    planted, hits = "", "too few examples"
    if detectable:
        gain = float(np.median(detectable))
        others = [comparison(metric, *pair(random, design, gain), clusters) for _ in range(different)]
        count = sum(row["verdict"] == "better" for row in others)
        planted, hits = f"{100 * gain:.1f} pts" if metric.share else f"{gain:.3f}", share(count, different)
        if not FOUND[0] <= count / different - POWER <= FOUND[1]:
            wrong.append(f"{name} {design}: a planted gain is found in {count / different:.1%}")
    print(
        f"{name:<12} {f'{prompts} x {rows}':<14} {share(alarms, same):<22} {single:<14} {covered:<7.1%} {planted:>9} {hits}",
        flush=True,
    )
    return binomtest(alarms, same, ALARMS, "greater").pvalue, wrong


def together(random: np.random.Generator, design: tuple[int, int], draw: Callable[[int], np.ndarray]) -> np.ndarray:
    """A draw for each row (n,), which is its prompt's with a chance that makes the correlation of two rows of it CORRELATION."""
    prompts, rows = design
    own, shared = draw(prompts * rows), np.repeat(draw(prompts), rows)
    return np.where(random.random(prompts * rows) < np.sqrt(CORRELATION), shared, own) if rows > 1 else own


def answers(random: np.random.Generator, design: tuple[int, int], gain: float) -> Pair:
    """Zeros and ones (1, n) of two models; ours is right more often by `gain`."""
    discordant = max(DISCORDANT, gain)
    both = RIGHT - DISCORDANT / 2
    odds = [both, (discordant + gain) / 2, (discordant - gain) / 2, 1 - both - discordant]
    outcome = together(
        random, design, lambda n: random.choice(4, size=n, p=odds)
    )  # both right, ours alone, theirs alone, none
    return np.array([outcome <= 1], float), np.array([(outcome == 0) | (outcome == 2)], float)


def losses(random: np.random.Generator, design: tuple[int, int], gain: float) -> Pair:
    """Log-probabilities and tokens (2, n) of two models; our perplexity is lower by `gain`."""
    tokens = random.integers(20, 200, design[0] * design[1]).astype(float)
    example = together(random, design, lambda n: random.gamma((LOSS / SPREAD) ** 2, SPREAD**2 / LOSS, n))
    shift = np.log(1 - gain / TRUTH["perplexity"])
    ours, theirs = (
        example + NOISE * together(random, design, random.standard_normal) + change for change in (shift, 0.0)
    )
    return np.array([-ours * tokens, tokens]), np.array([-theirs * tokens, tokens])


# Of all the examples that could be drawn: their length says nothing of their loss.
TRUTH = {"exact_match": RIGHT, "perplexity": float(np.exp(LOSS))}


def sweep_alarms(
    random: np.random.Generator, name: str, trained: Callable, design: tuple[int, int], seeds: int, spread: float
) -> bool:
    """Whether a sweep of equally good settings has a verdict."""
    clusters = np.repeat(np.arange(design[0]), design[1]) if design[1] > 1 else None
    settings = [measure(METRICS[name], columns, clusters) for columns in trained(random, design, seeds, spread)]
    rows = compare_all({name: METRICS[name]}, {name: settings})
    return any(row["verdict"] != "no evidence" for row in rows.values())


def answering(
    random: np.random.Generator, design: tuple[int, int], seeds: int, spread: float
) -> list[list[np.ndarray]]:
    """Zeros and ones of every setting's trainings: an example is as easy for all, a training has its luck."""
    n = design[0] * design[1]
    easy = together(random, design, lambda count: random.choice([0.05, 0.5, 0.95], size=count, p=[0.45, 0.2, 0.35]))
    lucky = spread * random.standard_normal((SETTINGS, seeds, 1))
    suits = np.array([[together(random, design, random.standard_normal)] for _ in range(SETTINGS)])
    shifts = 0.3 * suits * (easy == 0.5)  # what suits one setting and not another
    return [[row[None] for row in rows] for rows in (random.random((SETTINGS, seeds, n)) < easy + lucky + shifts) * 1.0]


def losing(random: np.random.Generator, design: tuple[int, int], seeds: int, spread: float) -> list[list[np.ndarray]]:
    """Log-probabilities and tokens of every setting's trainings."""
    n = design[0] * design[1]
    tokens = random.integers(20, 200, n).astype(float)
    example = together(random, design, lambda count: random.gamma((LOSS / SPREAD) ** 2, SPREAD**2 / LOSS, count))
    setting = NOISE * np.array([[together(random, design, random.standard_normal)] for _ in range(SETTINGS)])
    trained = spread * random.standard_normal((SETTINGS, seeds, 1))
    trained = trained + NOISE / 2 * random.standard_normal((SETTINGS, seeds, n))
    return [[np.array([-loss * tokens, tokens]) for loss in losses] for losses in example + setting + trained]


def share(count: int, of: int) -> str:
    """With its exact 95 % interval."""
    found = binomtest(count, of).proportion_ci(method="exact")
    return f"{count / of:5.1%} [{found.low:.1%}, {found.high:.1%}]"


if __name__ == "__main__":
    main()
