"""The figures of a run's exports: quality against size, and speed against size, with the Pareto front."""

from pathlib import Path
from typing import Any

from posttrain.exports import EXPORTS
from posttrain.metrics.statistics import is_share, metric
from posttrain.reports import figures
from posttrain.reports.export_table import RATIO, Row, Table, quality
from posttrain.reports.sweep_figures import in_percent, name_points

MEGABYTE = 1e6


def draw(folder: Path, table: Table) -> list[str]:
    """Draw quality against size, and where it was measured speed against size; returns SVG for the page, its files in `folder`."""
    whole = {kind: proof for kind, proof in table.proofs.items() if not EXPORTS[kind].is_adapter}
    found = []
    if len(whole) > 1:
        found.append(_draw_quality(folder / "quality", table, whole))
        if all(proof["tokens_per_second"] for proof in whole.values()):
            found.append(_draw_speed(folder / "speed", table, whole))
    return found


def _draw_quality(stem: Path, table: Table, proofs: dict[str, Row]) -> str:
    pyplot = figures.pyplot()
    figure, axis = pyplot.subplots(figsize=(4.6, 2.9))
    first = next(iter(proofs.values()))
    name = RATIO if RATIO in first else next(iter(first["metrics"]))
    rows = {kind: proof[RATIO] if name == RATIO else proof["metrics"][name] for kind, proof in proofs.items()}
    _points(axis, table, proofs, {kind: row["value"] for kind, row in rows.items()}, rows)
    lower = name == RATIO or not metric(name.split("/")[-1]).higher_is_better
    axis.set_ylabel(f"{name.replace('_', ' ')} ({'lower' if lower else 'higher'} is better)")
    if is_share(name):
        in_percent(axis, name)
    return figures.save(
        figure, stem, f"{name} of every export against its size; exports on the Pareto front are filled"
    )


def _draw_speed(stem: Path, table: Table, proofs: dict[str, Row]) -> str:
    pyplot = figures.pyplot()
    figure, axis = pyplot.subplots(figsize=(4.6, 2.9))
    _points(axis, table, proofs, {kind: proof["tokens_per_second"] for kind, proof in proofs.items()})
    axis.set_ylim(bottom=0)
    axis.set_ylabel("tokens per second")
    return figures.save(figure, stem, "Speed of every export against its size; exports on the Pareto front are filled")


def _points(axis: Any, table: Table, proofs: dict[str, Row], values: dict[str, float], intervals: Any = None) -> None:
    """A point for each export, named; those that another one beats are hollow and grey."""
    sizes = {kind: proof["size_bytes"] / MEGABYTE for kind, proof in proofs.items()}
    for kind in sorted(proofs, key=lambda kind: (kind not in table.beaten, quality(proofs[kind]))):
        hollow = kind in table.beaten
        colour = figures.COLOURS[5 if hollow else 0]
        if intervals:
            axis.vlines(sizes[kind], intervals[kind]["low"], intervals[kind]["high"], color=colour, alpha=0.5)
        axis.plot(sizes[kind], values[kind], "o", color=colour, markerfacecolor="none" if hollow else colour)
    axis.margins(x=0.3, y=0.3)
    axis.set_xlim(left=0)
    axis.locator_params(nbins=5)
    name_points(axis, [(sizes[kind], values[kind], kind) for kind in sorted(proofs, key=sizes.__getitem__)])
    axis.set_xlabel("size, MB")
