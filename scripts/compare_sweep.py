"""Put the runs of a sweep into one table and one picture, and compare each with the first.

Reads eval.json and the examples of every point; writes a line for each run (its overrides, its metrics, their intervals,
and p and verdict against the first point on the same examples) and a panel for each metric. The p-values are corrected
for the number of comparisons in the sweep (Holm 1979), as of many that are tried one looks better by chance.

    python scripts/compare_sweep.py --points '[["dpo_lora,rank=4", {"rank": 4}]]' --table table.tsv --plot plot.png
"""

import csv
import json
from pathlib import Path

from posttrain.cli import columns
from posttrain.examples import comparisons, read_examples
from posttrain.stage import arguments, read_json, run, say, whole_file
from posttrain.statistics import LEVEL, holm


def main(options) -> None:
    rows = []
    for name, overrides in json.loads(options.points):
        metrics = read_json(Path(f"results/{name}/eval.json"))["metrics"]
        rows.append({"run": name, "overrides": overrides, "metrics": metrics})
    for row, against in zip(rows, against_first(rows), strict=True):
        row["against"] = against
    write_table(options.table, rows)
    draw(options.plot, rows)
    say(printed(rows))


def against_first(rows: list[dict]) -> list[dict[str, dict]]:
    """Corrected p and verdict of every metric of every run against the first run; none for the first itself."""
    first = read_examples(rows[0]["run"])
    same_parent = "from" not in rows[0]["overrides"]
    found = [{}]
    for row in rows[1:]:
        found.append(comparisons(list(read_examples(row["run"]).values()), first, same_parent))
    cells = [cell for metrics in found for cell in metrics.values()]
    for cell, p in zip(cells, holm([cell["p"] for cell in cells]), strict=True):
        cell |= {"p": p, "verdict": cell["verdict"] if p < 1 - LEVEL else "no evidence"}
    return found


def write_table(path: Path, rows: list[dict]) -> None:
    """One line a run: its name, its overrides, then value, low, high, p and verdict of every metric."""
    keys, metrics = list(rows[0]["overrides"]), list(rows[0]["metrics"])
    header = [f"{metric}{part}" for metric in metrics for part in ("", "_low", "_high", "_p", "_verdict")]
    with whole_file(path) as beside, beside.open("w", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(["run", *keys, *header])
        for row in rows:
            cells = [cell for metric in metrics for cell in _cells(row, metric)]
            writer.writerow([row["run"], *row["overrides"].values(), *cells])


def _cells(row: dict, metric: str) -> list[str]:
    numbers = [f"{row['metrics'][metric][part]:.6g}" for part in ("value", "low", "high")]
    against = row["against"].get(metric)
    return [*numbers, f"{against['p']:.6g}", against["verdict"]] if against else [*numbers, "", ""]


def printed(rows: list[dict]) -> str:
    """The table for a person: a metric with its interval and verdict in one cell."""
    metrics = list(rows[0]["metrics"])
    lines = [["", *metrics]]
    for row in rows:
        values = [row["metrics"][metric] for metric in metrics]
        verdicts = [row["against"].get(metric, {}).get("verdict", "") for metric in metrics]
        cells = [
            f"{value['value']:.3g} [{value['low']:.3g}, {value['high']:.3g}] {verdict}".rstrip()
            for value, verdict in zip(values, verdicts, strict=True)
        ]
        lines.append([row["run"], *cells])
    return f"{columns(lines)}\n\nVerdicts are against {rows[0]['run']}, corrected for their number (Holm).\n"


def draw(path: Path, rows: list[dict]) -> None:
    """One panel a metric, one point with its interval a run."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    metrics = list(rows[0]["metrics"])
    labels = ["\n".join(f"{key}={value}" for key, value in row["overrides"].items()) for row in rows]
    figure, axes = pyplot.subplots(1, len(metrics), figsize=(3.6 * len(metrics), 3.4), squeeze=False)
    for axis, metric in zip(axes[0], metrics, strict=True):
        values = [row["metrics"][metric] for row in rows]
        errors = [[v["value"] - v["low"] for v in values], [v["high"] - v["value"] for v in values]]
        axis.errorbar(range(len(rows)), [v["value"] for v in values], yerr=errors, fmt="o", capsize=4)
        axis.set_xticks(range(len(rows)), labels)
        axis.set_xlim(-0.5, len(rows) - 0.5)
        axis.set_title(metric, fontsize=10)
        axis.grid(axis="y", alpha=0.3)
    figure.tight_layout()
    with whole_file(path) as beside:
        figure.savefig(beside, dpi=120, format="png")


if __name__ == "__main__":
    run(arguments(__doc__, points=str, table=Path, plot=Path), main)
