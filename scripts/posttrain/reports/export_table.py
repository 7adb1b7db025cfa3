"""The proofs of a run's exports as one page: size, quality and speed, and what a person would say of each."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from posttrain.exports import EXPORTS
from posttrain.metrics.statistics import SAME, basis, metric, size, verdict
from posttrain.reports import cases, formatting, html
from posttrain.reports.intervals import Axis, difference_axis, value_axis

Row = dict[str, Any]
SAME_SIZE = 1.05  # files whose ratio is smaller are of the same size in a sentence
RATIO, AGREEMENT = "perplexity_ratio", "greedy_agreement"


@dataclass
class Table:
    """A run's proved exports."""

    run: str
    reference_bytes: int
    """of the trained model in float32"""
    proofs: dict[str, Row]
    """by kind, in the order of the table of kinds; as `{kind}.json` has them"""

    @cached_property
    def beaten(self) -> dict[str, str]:
        """The exports that another one beats, and which."""
        return beaten(self.proofs)

    @property
    def metrics(self) -> list[str]:
        """The run's own metrics that were measured."""
        return list(dict.fromkeys(name for proof in self.proofs.values() for name in proof["metrics"]))

    def against(self, kind: str, name: str) -> Row | None:
        """The comparison of an export with the unquantised model in a metric."""
        return self.proofs[kind]["against"].get(self.run, {}).get(name)

    def before(self, name: str) -> float | None:
        """The unquantised model's value of a metric, on the rows of the proofs."""
        for proof in self.proofs.values():
            row = proof["against"].get(self.run, {}).get(name)
            if row:
                return proof["metrics"][name]["value"] - row["difference"]
        return None

    def smaller(self, kind: str) -> float:
        """How many times smaller than the trained model an export is."""
        return self.reference_bytes / self.proofs[kind]["size_bytes"]


def quality(proof: Row) -> float:
    """A number that is larger for an export that is closer to the trained model: its perplexity turned round.

    A reward model has no perplexity, and its first metric stands for it.
    """
    if RATIO in proof:
        return -proof[RATIO]["value"]
    name, row = next(iter(proof["metrics"].items()))
    return row["value"] if metric(name.split("/")[-1]).higher_is_better else -row["value"]


def beaten(proofs: dict[str, Row]) -> dict[str, str]:
    """The exports that another one beats in one of size, quality and speed and equals at least in the others, and which one.

    An adapter is compared with none, as it needs its base beside it; nor is speed where one of two has none.
    """
    whole = [kind for kind in proofs if not EXPORTS[kind].is_adapter]
    found = {}
    for kind in whole:
        better = [other for other in whole if other != kind and _beats(proofs[other], proofs[kind])]
        if better:
            found[kind] = max(better, key=lambda other: quality(proofs[other]))
    return found


def _beats(one: Row, other: Row) -> bool:
    pairs = [(-one["size_bytes"], -other["size_bytes"]), (quality(one), quality(other))]
    speeds = (one["tokens_per_second"], other["tokens_per_second"])
    pairs += [speeds] if None not in speeds else []
    return all(ours >= theirs for ours, theirs in pairs) and any(ours > theirs for ours, theirs in pairs)


# ---- what a person would say


def sentences(table: Table) -> list[str]:
    """One for each export: its size, and what of the trained model's quality it lost."""
    return [f"{kind} {_sized(table, kind)}, and {_quality(table, kind)}." for kind in table.proofs]


def _sized(table: Table, kind: str) -> str:
    own = table.proofs[kind]["size_bytes"]
    if EXPORTS[kind].is_adapter:
        return f"has {formatting.bytes_(own)} and is loaded over its base"
    ratio, sizes = table.smaller(kind), f"({formatting.bytes_(own)})"
    if ratio >= SAME_SIZE:
        return f"is {_times(ratio)} times smaller than fp32 {sizes}"
    if ratio > 1 / SAME_SIZE:
        return f"is as large as fp32 {sizes}"
    return f"is {_times(1 / ratio)} times larger than fp32 {sizes}"


def _times(ratio: float) -> str:
    return f"{ratio:.1f}".removesuffix(".0")


def _quality(table: Table, kind: str) -> str:
    """What was lost, with interval and n; else that nothing was shown, and what could have been."""
    rows = {name: row for name in table.metrics if (row := table.against(kind, name))}
    worse = [name for name, row in rows.items() if row["verdict"] == "worse"]
    better = [name for name, row in rows.items() if row["verdict"] == "better"]
    unclear = [name for name in rows if name not in worse + better]
    own = table.proofs[kind]["metrics"]
    parts = []
    if worse:
        parts.append(f"loses {_changes(rows, own, worse)}")
    if better:
        parts.append(f"gains {_changes(rows, own, better)}")
    if unclear:
        what = "no other difference was found" if parts else "no difference was found"
        parts.append(f"{what} {formatting.listed(_could_have(rows, own, unclear))}")
    parts += _turned(table.proofs[kind])
    return "; ".join(parts) or "none of the run's metrics was measured"


def _turned(proof: Row) -> list[str]:
    """The cases that are red and were green in the unquantised model, and the other way round."""
    parts = []
    for suite, rows in proof.get("cases", {}).items():
        for names, colour in zip(cases.changed(rows), ("red", "green"), strict=True):
            if names:
                several = "cases" if len(names) > 1 else "case"
                parts.append(f"turns {len(names)} {several} of {suite} {colour}: {formatting.listed(names)}")
    return parts


def _changes(rows: dict[str, Row], own: dict[str, Row], names: list[str]) -> str:
    """`4 points [1.3, 6.7] in tool_name (64 examples)` of each; the number of examples is said where it changes."""
    parts, before = [], None
    for name in names:
        examples = basis(own[name])
        parts.append(f"{_lost(name, rows[name])} in {name}{'' if examples == before else f' ({examples})'}")
        before = examples
    return formatting.listed(parts)


def _lost(name: str, row: Row) -> str:
    """A loss or gain with its interval, without a sign."""
    positive = {
        "difference": abs(row["difference"]),
        "low": min(abs(row["low"]), abs(row["high"])),
        "high": max(abs(row["low"]), abs(row["high"])),
    }
    return formatting.difference(name, positive).removeprefix("+")


def _could_have(rows: dict[str, Row], own: dict[str, Row], names: list[str]) -> list[str]:
    """Metrics without a difference, by what their examples could have shown; the number of examples is said where it changes."""
    groups: dict[tuple[str, str], list[str]] = {}
    for name in names:
        detectable = rows[name].get("detectable")
        could = size(metric(name.split("/")[-1]), detectable) if detectable else ("" if detectable is None else SAME)
        groups.setdefault((could, basis(own[name])), []).append(name)
    parts, before = [], None
    for (could, examples), found in groups.items():
        words = could if could == SAME or examples == before else f"{examples} could have shown {could}"
        if not could:
            words = f"{examples} are too few to show one"
        elif could != SAME:
            before = examples
        parts.append(f"in {formatting.listed(found)} ({words})")
    return parts


# ---- the page


def page(table: Table, figures: list[str]) -> str:
    """The page; `figures` are SVG."""
    first = next(iter(table.proofs.values()))
    measured = [proof[RATIO] for proof in table.proofs.values() if RATIO in proof]
    ratios = value_axis(RATIO, [{"value": 1.0, "low": 1.0, "high": 1.0}, *measured]) if measured else None
    return html.render(
        "export.html",
        run=table.run,
        sentences=sentences(table),
        reference={"bytes": formatting.bytes_(table.reference_bytes)},
        measured=bool(measured),
        ticks=ratios.ticks if ratios else [],
        basis=_basis(first),
        rows=[_row(table, kind, ratios) for kind in table.proofs],
        metrics=[_metric(table, name) for name in table.metrics],
        limits=_limits(first["limits"]),
        cases=cases.tables(_cases(table)),
        figures=figures,
    )


def _cases(table: Table) -> dict[str, dict[str, list[Row]]]:
    """The cases of the unquantised model, as the first proof has them, and of each export."""
    found = {kind: proof["cases"] for kind, proof in table.proofs.items() if "cases" in proof}
    before = {
        suite: [
            row
            | {"passed": row["before"], "failed": row["failed_before"], "answer": row["answer_before"], "before": None}
            for row in rows
        ]
        for suite, rows in next(iter(found.values()), {}).items()
    }
    return {"fp32": before} | found if found else {}


def _basis(proof: Row) -> str:
    """What likelihoods were measured on."""
    return f"{basis(proof[RATIO])}, {proof[RATIO]['tokens']:,} tokens" if RATIO in proof else ""


def _limits(limits: dict[str, float]) -> list[str]:
    return [f"{formatting.label(name)} {value:,g}" for name, value in limits.items()]


def _row(table: Table, kind: str, ratios: Axis | None) -> Row:
    proof, ratio = table.proofs[kind], table.proofs[kind].get(RATIO)
    agreement, speed = proof.get(AGREEMENT), proof["tokens_per_second"]
    return {
        "kind": kind,
        "words": EXPORTS[kind].words,
        "program": f"{proof['program']} {proof['program_version']}",
        "bytes": formatting.bytes_(proof["size_bytes"]),
        "smaller": "needs its base" if EXPORTS[kind].is_adapter else f"1/{_times(table.smaller(kind))} of fp32",
        "ratio": formatting.value(RATIO, ratio) if ratio else "",
        "interval": formatting.interval(RATIO, ratio) if ratio else "",
        "bar": ratios.bar(ratio["value"], ratio["low"], ratio["high"]) if ratio else None,
        "agreement": formatting.percent(agreement["value"]) if agreement else "",
        "answers": formatting.percent(proof["same_answers"]["value"]) if "same_answers" in proof else "",
        "speed": f"{formatting.short(speed)} tokens/s" if speed else "",
        "load": formatting.duration(proof["load_seconds"]),
        "memory": formatting.bytes_(proof["peak_memory_bytes"]),
        "beaten": table.beaten.get(kind),
        "alone": EXPORTS[kind].is_adapter,
    }


def _metric(table: Table, name: str) -> Row:
    kinds = [kind for kind, proof in table.proofs.items() if name in proof["metrics"]]
    values = [table.proofs[kind]["metrics"][name] for kind in kinds]
    found = [row for kind in kinds if (row := table.against(kind, name))]
    axis = difference_axis(name, found, metric(name.split("/")[-1]).higher_is_better)
    before = table.before(name)
    return {
        "name": name,
        "examples": basis(values[0]),
        "better": "higher" if metric(name.split("/")[-1]).higher_is_better else "lower",
        "before": None if before is None else formatting.value(name, values[0] | {"value": before}),
        "ticks": axis.ticks,
        "rows": [_compared(table, kind, name, axis) for kind in kinds],
    }


def _compared(table: Table, kind: str, name: str, axis: Axis) -> Row:
    own, row = table.proofs[kind]["metrics"][name], table.against(kind, name)
    return {
        "kind": kind,
        "value": formatting.value(name, own),
        "interval": formatting.interval(name, own),
        "against": row
        and {
            "word": verdict(row),
            "difference": formatting.difference(name, row),
            "p": formatting.p_value(row["p"]),
            "detectable": "" if row.get("detectable") is None else formatting.detectable(name, row["detectable"]),
            "bar": axis.bar(row["difference"], row["low"], row["high"]),
        },
    }
