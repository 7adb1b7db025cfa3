"""The first section of a run report: key figures, and the verdicts of each run in words."""

from typing import Any

from posttrain.metrics.statistics import TOO_FEW
from posttrain.reports import formatting

MAX_VERDICTS = 6  # of a run, before the rest is left to the table
MAX_NAMES = 4  # metrics without evidence that are named

Model = dict[str, Any]


def card(run: Model, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """A run's verdicts: those of better and worse one by one, the parent's first, the others as sentences.

    Args:
        rows: the run's comparisons, as `results_table.compared` has them.
    """
    decided = [row for row in rows if row["word"] in ("better", "worse")]
    decided.sort(key=lambda row: row["role"] != "parent")
    return {
        "name": run["name"],
        "what": f"{run['objective']}, {run['method']}, from {run['parent']}",
        "decided": decided[:MAX_VERDICTS],
        "more": len(decided[MAX_VERDICTS:]),
        "unclear": [*_unclear(rows, "no evidence"), *_unclear(rows, TOO_FEW)],
        "alone": [] if rows else _alone(run),
        "overruled": run["overruled"],
    }


def _unclear(rows: list[dict[str, Any]], word: str) -> list[str]:
    """One sentence for all the metrics of one verdict that have the same other models and as many examples."""
    others: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if row["word"] == word:
            on = f" ({row['examples']})" if word == TOO_FEW else ""
            others.setdefault((on, row["metric"]), []).append(row["other"])
    metrics: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for (on, metric), names in others.items():
        metrics.setdefault((on, tuple(names)), []).append(formatting.label(metric))
    start, verb = (
        ("Too few examples", "to compare with") if word == TOO_FEW else ("No evidence", "of a difference from")
    )
    return [f"{start}{on} {verb} {formatting.listed(names)} on {_some(own)}." for (on, names), own in metrics.items()]


def _some(names: list[str]) -> str:
    more = len(names) - MAX_NAMES
    return f"{', '.join(names[:MAX_NAMES])} and {more} more" if more > 1 else formatting.listed(names)


def _alone(run: Model) -> list[str]:
    """The metrics of a run that is compared with nothing, in words."""
    return [
        f"{formatting.label(name)} {formatting.value(name, row)} {formatting.interval(name, row)}, {formatting.examples(row)}"
        for name, row in run["eval"]["metrics"].items()
    ]


def tiles(runs: list[Model], cards: list[dict[str, Any]], cost: dict[str, Any]) -> list[tuple[str, str]]:
    """The key figures: a number and what it counts."""
    words = [{row["word"] for row in card["decided"]} for card in cards]
    found = [
        (str(len(runs)), "trained models" if len(runs) != 1 else "trained model"),
        (str(sum("better" in own for own in words)), "better than parent or base in some metric"),
        (str(sum("worse" in own for own in words)), "worse than parent or base in some metric"),
    ]
    if touched := sum(bool(run["overruled"]) for run in runs):
        found.append((str(touched), "rest on a check that was overruled"))
    total = cost["total"]
    found.append((formatting.duration(total["seconds"]), "of training and evaluation"))
    if cost["price"] is not None:
        money = total["seconds"] / 3600 * cost["price"]
        found.append((f"{money:,.2f} {cost['currency']}", f"at {formatting.short(cost['price'])} an hour"))
    else:
        found.append((formatting.energy(total["kwh"]), "of energy, estimated" if cost["estimated"] else "of energy"))
    return found
