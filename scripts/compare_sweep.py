"""Put the runs of a sweep into one table and one picture.

Reads eval.json of every point; writes a line for each run (its overrides, its metrics and their intervals) and a panel
for each metric.

    python scripts/compare_sweep.py --points '[["dpo_lora,rank=4", {"rank": 4}]]' --table table.tsv --plot plot.png
"""

import csv
import json
from pathlib import Path

from posttrain.stage import arguments, read_json, run, say, whole_file


def main(options) -> None:
    rows = []
    for name, overrides in json.loads(options.points):
        metrics = read_json(Path(f"results/{name}/eval.json"))["metrics"]
        rows.append({"run": name, "overrides": overrides, "metrics": metrics})
    write_table(options.table, rows)
    draw(options.plot, rows)
    say(options.table.read_text().expandtabs(24))


def write_table(path: Path, rows: list[dict]) -> None:
    """One line a run: its name, its overrides, then value, low and high of every metric."""
    keys = list(rows[0]["overrides"])
    metrics = list(rows[0]["metrics"])
    columns = [f"{metric}{part}" for metric in metrics for part in ("", "_low", "_high")]
    with whole_file(path) as beside, beside.open("w", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(["run", *keys, *columns])
        for row in rows:
            numbers = [row["metrics"][metric][part] for metric in metrics for part in ("value", "low", "high")]
            writer.writerow([row["run"], *row["overrides"].values(), *(f"{number:.6g}" for number in numbers)])


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
