"""The verdicts of an eval.json as lines for the terminal: what is better or worse, what could have been shown, on how much."""

from posttrain.metrics.statistics import SAME, TOO_FEW, basis, metric, shown, size, verdict
from posttrain.reports import overruled

MAX_NAMES = 6  # metrics without evidence that are named one by one


def of(result: dict) -> list[str]:
    """A line for each model that a result is compared with: verdicts, overruled checks, and what no evidence could have shown."""
    lines = []
    for other, metrics in result["against"].items():
        groups: dict[str, list[str]] = {"better": [], "worse": []}
        for name, row in metrics.items():
            groups.setdefault(row["verdict"], []).append(name)
        unclear = groups.pop("no evidence", [])
        few = [name for name in unclear if verdict(metrics[name]) == TOO_FEW]
        rest = [name for name in unclear if name not in few]
        if len(rest) > MAX_NAMES:
            groups["no evidence of a difference"] = [f"the other {len(rest)} metrics"]
        elif rest:
            groups["no evidence of a difference"] = _detectable(result, other, rest)
        if few:
            groups["too few examples to compare"] = _by_basis(result, few)
        parts = [f"{word}: {', '.join(names)}" for word, names in groups.items() if names]
        checks = overruled.named(overruled.of(result["run"], other))
        note = f" (overruled: {checks})" if checks else ""
        lines.append(f"{result['run']} against {other}{note}: {'; '.join(parts)}")
    return lines


def _by_basis(result: dict, names: list[str]) -> list[str]:
    """The metrics, each with its number of examples where that changes; many are counted."""
    if len(names) > MAX_NAMES:
        return [f"{len(names)} metrics"]
    parts, before = [], None
    for name in names:
        own = basis(result["metrics"][name])
        parts.append(name if own == before else f"{name} ({own})")
        before = own
    return parts


def _detectable(result: dict, other: str, names: list[str]) -> list[str]:
    """The metrics, each with the difference that its examples could have shown; said in full where their number changes."""
    parts, before = [], None
    for name in names:
        own, difference = basis(result["metrics"][name]), result["against"][other][name]["detectable"]
        if not difference:
            parts.append(f"{name} ({SAME})")
            continue
        could = size(metric(name.split("/")[-1]), difference)
        parts.append(f"{name} ({could})" if own == before else f"{name} ({own} could have shown {could})")
        before = own
    return parts


def measured_on(results: list[dict]) -> str:
    """How many examples, and of how many prompts where several share one, the metrics are measured on, as a sentence."""
    found: dict[str, dict[str, None]] = {}
    for result in results:
        for name, row in result["metrics"].items():
            found.setdefault(basis(row), {})[name] = None
    if len(found) == 1:
        return f"Measured on {next(iter(found))}."
    parts = [f"{what}: {', '.join(names)}" for what, names in found.items()]
    return f"Measured on {'; '.join(parts)}."


def judged(result: dict) -> list[str]:
    """A line for each suite with a judge: the win rate, and what says how far to trust it."""
    lines = []
    for suite, row in result.get("judge", {}).items():
        name = f"{suite}/win_rate"
        first, agreement = row["first"], row.get("agreement")
        parts = [
            f"{shown(name, row['ties']['value'])} ties",
            f"the first answer won {_interval(first)} of the verdicts" if first else "no verdict for either answer",
            f"{row['unreadable']} repl{'y' if row['unreadable'] == 1 else 'ies'} without a verdict"
            if row["unreadable"]
            else "",
            f"people agree on {_interval(agreement)} of {agreement['n']} pairs" if agreement else "",
            f"cost {row['cost']:.4g}" if "cost" in row else "",
        ]
        found = f"{result['run']}: {suite} judged by {row['by']} against {row['against']}"
        lines.append(
            f"{found}: wins {_interval(result['metrics'][name])} of {row['pairs']} pairs, {', '.join(filter(None, parts))}"
        )
    return lines


def _interval(row: dict) -> str:
    value, low, high = (f"{row[part]:.0%}" for part in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"
