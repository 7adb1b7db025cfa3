"""Cases, green or red, of models and of their exports side by side."""

from typing import Any

Row = dict[str, Any]


def tables(columns: dict[str, dict[str, list[Row]]]) -> list[Row]:
    """A table for each suite of cases: a row a case, a cell a column, None where the column was not asked.

    Args:
        columns: what is asked, a model or an export of it, to the `cases` of its eval.json or its proof.
    """
    suites = dict.fromkeys(suite for found in columns.values() for suite in found)
    return [
        _table(suite, {name: found[suite] for name, found in columns.items() if suite in found}) for suite in suites
    ]


def _table(suite: str, columns: dict[str, list[Row]]) -> Row:
    cases: dict[str, Row] = {}
    for row in (row for rows in columns.values() for row in rows):
        cases.setdefault(row["id"], row)
    by_id = {name: {row["id"]: row for row in rows} for name, rows in columns.items()}
    return {
        "suite": suite,
        "columns": [
            {"name": name, "green": sum(row["passed"] for row in rows), "n": len(rows)}
            for name, rows in columns.items()
        ],
        "rows": [case | {"cells": [rows.get(name) for rows in by_id.values()]} for name, case in cases.items()],
    }


def changed(rows: list[Row]) -> tuple[list[str], list[str]]:
    """The cases of an export that are red and were green in the unquantised model, and the other way round."""
    red = [row["id"] for row in rows if row["before"] and not row["passed"]]
    green = [row["id"] for row in rows if row["passed"] and not row["before"]]
    return red, green


def red(result: Row) -> list[str]:
    """A line for each suite: how many cases are green, and which are red and why.

    Args:
        result: an eval.json.
    """
    lines = []
    for suite, rows in result.get("cases", {}).items():
        failed = [row for row in rows if not row["passed"]]
        why = [f"{row['id']}{' (required)' if row['required'] else ''}: {row['failed']}" for row in failed]
        green = f"{result['run']}: {suite}: {len(rows) - len(failed)} of {len(rows)} cases green"
        lines.append("; ".join([green, *(f"red: {one}" for one in why)]))
    return lines
