"""The first section of a run report: key figures, and the verdicts of each run in words."""

from typing import Any

from posttrain.metrics.statistics import TOO_FEW
from posttrain.reports import cost as costs
from posttrain.reports import formatting

MAX_VERDICTS = 6  # of a run, before the rest is left to the table
MAX_NAMES = 4  # metrics without evidence that are named

Model = dict[str, Any]


def card(run: Model, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """A run's verdicts against each other model, its parent first.

    Args:
        rows: the run's comparisons, as `results_table.compared` has them.
    """
    others = sorted(dict.fromkeys(row["other"] for row in rows), key=lambda other: other != run["parent"])
    return {
        "name": run["name"],
        "what": f"{run['objective']}, {run['method']}, from {run['parent']}",
        "others": [_against([row for row in rows if row["other"] == other]) for other in others],
        "alone": [] if rows else _alone(run),
        "overruled": run["overruled"],
        "cases": [_cases(suite, found) for suite, found in run.get("eval", {}).get("cases", {}).items()],
        "diagnosis": run["diagnosis"],
    }


def _cases(suite: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """How many cases of a suite are green, and the red ones."""
    red = [row["id"] for row in rows if not row["passed"]]
    return {"suite": suite, "n": len(rows), "green": len(rows) - len(red), "red": _some(red)}


def _against(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The verdicts against one other model: better and worse one by one, the rest as sentences."""
    decided = [row for row in rows if row["word"] in ("better", "worse")]
    return {
        "decided": decided[:MAX_VERDICTS],
        "more": len(decided[MAX_VERDICTS:]),
        "unclear": [*_unclear(rows, "no evidence"), *_unclear(rows, TOO_FEW)],
    }


def _unclear(rows: list[dict[str, Any]], word: str) -> list[str]:
    """One sentence for all the metrics of one verdict that have as many examples."""
    metrics: dict[str, list[str]] = {}
    for row in rows:
        if row["word"] == word:
            on = f" ({row['examples']})" if word == TOO_FEW else ""
            metrics.setdefault(on, []).append(formatting.label(row["metric"]))
    start, verb = (
        ("Too few examples", "to compare with") if word == TOO_FEW else ("No evidence", "of a difference from")
    )
    return [f"{start}{on} {verb} {rows[0]['other']} on {_some(own)}." for on, own in metrics.items()]


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
    words = [{row["word"] for other in card["others"][:1] for row in other["decided"]} for card in cards]
    found = [
        (str(len(runs)), "trained models" if len(runs) != 1 else "trained model"),
        (str(sum("better" in own for own in words)), "better than the parent in some metric"),
        (str(sum("worse" in own for own in words)), "worse than the parent in some metric"),
    ]
    if touched := sum(bool(run["overruled"]) for run in runs):
        found.append((str(touched), "rest on a check that was overruled"))
    cases = [row["passed"] for run in runs for rows in run["eval"].get("cases", {}).values() for row in rows]
    if cases:
        found.append((f"{sum(cases)} of {len(cases)}", "cases are green"))
    total = cost["total"]
    found.append((formatting.duration(total["seconds"]), "of training and evaluation"))
    if cost["price"] is not None:
        money = costs.money(cost["price"], total["seconds"])
        found.append((f"{money:,.2f} {cost['currency']}", f"at {formatting.short(cost['price'])} an hour"))
    else:
        found.append((formatting.energy(total["kwh"]), "of energy, estimated" if cost["estimated"] else "of energy"))
    return found
