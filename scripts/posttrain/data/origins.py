"""Metrics by where their examples come from: a dataset, or a part of a mixture; as eval.json has them, for people."""

from typing import Any

Row = dict[str, Any]


def tables(result: Row) -> dict[str, dict[str, Row]]:
    """The metrics of each dataset of an eval.json, and of each part of a mixture, called `MIXTURE, PART`."""
    parts = {
        f"{dataset}, {part}": rows
        for dataset, found in result.get("by_part", {}).items()
        for part, rows in found.items()
    }
    return result.get("by_dataset", {}) | parts


def apart(result: Row, metric: str) -> dict[str, Row]:
    """A metric's value, interval and n by origin; nothing where all of its examples have one."""
    found = {name: rows[metric] for name, rows in tables(result).items() if metric in rows}
    whole = found.keys() & result.get("by_dataset", {}).keys()
    if len(whole) == 1:  # its value is that of all examples
        found.pop(whole.pop())
    return found if len(found) > 1 else {}


def compared(models: list[Row], metrics: list[str]) -> list[Row]:
    """For the report: every metric of several origins, as a table of models by origin."""
    found = []
    for metric in metrics:
        rows = {model["name"]: apart(model["eval"], metric) for model in models}
        rows = {name: own for name, own in rows.items() if own}
        names = list(dict.fromkeys(name for own in rows.values() for name in own))
        if rows:
            found.append({"metric": metric, "origins": names, "rows": rows})
    return found
