"""What verdicts on pairs of answers add up to: the win rate, how much the order decided, and whether people agree."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from posttrain.evaluation.judging import Pair, Reply, Verdicts, unreadable
from posttrain.metrics.paired import comparison
from posttrain.metrics.statistics import METRICS, Metric, summary

OUTCOMES = (1.0, 0.5, 0.0)  # ours is better, a tie, theirs is


def win_rate(found: list[Verdicts], clusters: np.ndarray | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """The metric of eval.json, and its comparison with the other's win rate, which is what is missing to 1.

    The difference of the two is wins less losses as a share of the pairs, tested as every other paired difference. The interval of the
    win rate is that of the difference, so it holds 50 % exactly where there is no evidence.
    """
    ours = np.array([[verdicts.win for verdicts in found]])
    row = comparison(METRICS["win_rate"], ours, 1 - ours, clusters)
    value = summary(METRICS["win_rate"], ours, clusters)
    return value | {side: (1 + row[side]) / 2 for side in ("low", "high")}, row


def details(
    found: list[Verdicts],
    pairs: list[Pair],
    replies: list[Reply],
    costs: list[float | None],
    clusters: np.ndarray | None,
) -> dict[str, Any]:
    """What says how far the win rate can be trusted, and what it cost; see docs/judge.md."""
    groups = np.arange(len(found)) if clusters is None else clusters
    ties = [float(verdicts.win == 0.5) for verdicts in found]
    asked = [(verdicts, group) for verdicts, pair, group in zip(found, pairs, groups, strict=True) if not pair.is_equal]
    flips = [float(verdicts.ours_first != verdicts.theirs_first) for verdicts, _ in asked]
    first = [(share, group) for verdicts, group in asked for share in verdicts.to_first]
    values = {
        "pairs": len(found),
        "equal": len(found) - len(asked),
        "unreadable": len(unreadable(replies)),
        "ties": _share(ties, groups),
        "flips": _share(flips, [group for _, group in asked]),
        "first": _share([share for share, _ in first], [group for _, group in first]),
        "prompt_tokens": sum(reply.prompt_tokens for reply in replies),
        "completion_tokens": sum(reply.completion_tokens for reply in replies),
    }
    return values | ({} if None in costs else {"cost": float(sum(costs))})


def _share(values: list[float], groups: Iterable[Any]) -> dict[str, float] | None:
    """A share with its interval; None of nothing."""
    return summary(METRICS["win_rate"], np.array([values]), np.array(list(groups))) if values else None


# ---- people


def agreement(judge: list[float], people: list[float]) -> dict[str, dict[str, float]]:
    """The share of pairs on which judge and people agree, and Cohen's kappa (1960): agreement beyond that of chance.

    Args:
        judge: of each pair, one of OUTCOMES.
        people: the same, as most of the raters prefer.
    """
    if not judge:
        return {}
    same = np.array([[float(a == b) for a, b in zip(judge, people, strict=True)]])
    cells = np.array(
        [[float((a, b) == (x, y)) for a, b in zip(judge, people, strict=True)] for x in OUTCOMES for y in OUTCOMES]
    )
    found = {"agreement": summary(METRICS["win_rate"], same)}
    return found if _chance(cells.sum(axis=1), np.array(len(judge))) == 1 else found | {"kappa": summary(KAPPA, cells)}


def _chance(cells: np.ndarray, n: np.ndarray) -> np.ndarray:
    """The agreement that two raters with these shares of outcomes would have by chance; cells (9, ...), n (...)."""
    table = cells.reshape(3, 3, *cells.shape[1:])
    return (table.sum(axis=0) * table.sum(axis=1)).sum(axis=0) / n**2


def _kappa(cells: np.ndarray, n: np.ndarray) -> np.ndarray:
    """Cohen's kappa of the counts of each outcome with each (9, ...); 0 where all outcomes are one."""
    observed, chance = cells[[0, 4, 8]].sum(axis=0) / n, _chance(cells, n)
    return np.divide(observed - chance, 1 - chance, out=np.zeros_like(observed), where=chance < 1)


KAPPA = Metric(tuple(f"cell{number}" for number in range(9)), _kappa, higher_is_better=True, share=False)
