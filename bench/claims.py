"""What each method costs on your own base model, beside what the field says of it (`make claims`).

    python bench/claims.py                                  # config/examples/methods.yaml: SmolLM2, four steps a method
    python bench/claims.py --config my.yaml --folder DIR    # the sft runs of your configuration

Every run is trained by the workflow itself, so the numbers are those of real runs: the trained share and the peak memory
from train.json, the size of what is saved from trained/, the time a token as the median of train.jsonl. Memory is that of
the process (on a GPU, of the GPU), without the `floor` that importing the libraries takes. Ratios are to full fine-tuning;
QLoRA's claims are about LoRA, so it is compared with that as well.
"""

import argparse
import json
import statistics
import subprocess
import sys
from functools import cache
from pathlib import Path

import yaml

REPOSITORY = Path(__file__).resolve().parents[1]
CLAIMS = {
    "lora": "0.5-5 % of the parameters, 70 % less memory, an adapter of a few MB",
    "qlora": "33 % less memory than LoRA, 39 % more time (on a GPU)",
}
FLOOR = "import resource, trl, peft; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=REPOSITORY / "config/examples/methods.yaml")
    parser.add_argument("--folder", type=Path, default=REPOSITORY, help="where results/ is, or will be")
    parser.add_argument("--cores", default="2")
    options = parser.parse_args()
    runs = yaml.safe_load(options.config.read_text())["runs"]
    names = [name for name, run in runs.items() if run["objective"] == "sft"]
    targets = [f"results/{name}/train.json" for name in names]
    where = ["-s", REPOSITORY / "Snakefile", "--directory", options.folder, "--configfile", options.config.absolute()]
    command = ["snakemake", *where, "--cores", options.cores, *targets]
    subprocess.run([str(part) for part in command], check=True)
    rows = {name: measured(options.folder / "results" / name, runs[name].get("method", "lora")) for name in names}
    print(table(rows))


def measured(folder: Path, method: str) -> dict:
    """One run's numbers: share (of 1), saved (MB), memory (GiB) and seconds (a thousand tokens)."""
    summary = json.loads((folder / "train.json").read_text())
    steps = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
    speeds = [step["tokens_per_second"] for step in steps if step.get("tokens_per_second")]
    return {
        "method": method,
        "share": summary["trainable_parameters"] / summary["parameters"],
        "saved": sum(file.stat().st_size for file in (folder / "trained").glob("*.safetensors")) / 1e6,
        "memory": summary["memory_gib"] - (0 if summary["memory_of"] == "gpu" else floor()),
        "seconds": 1000 / statistics.median(speeds),
    }


@cache
def floor() -> float:
    """Memory in GiB of a process that has only imported the libraries."""
    return float(subprocess.run([sys.executable, "-c", FLOOR], capture_output=True, text=True, check=True).stdout)


def table(rows: dict[str, dict]) -> str:
    """The numbers with their ratios to full fine-tuning (or to the first row), and the claims under them."""
    first = next((row for row in rows.values() if row["method"] == "full"), next(iter(rows.values())))
    lines = [
        f"{'run':16} {'trained':>9} {'saved MB':>9} {'memory GiB':>11} {'ratio':>6} {'s/1000 tok':>11} {'ratio':>6}"
    ]
    for name, row in rows.items():
        ratios = [row[key] / first[key] for key in ("memory", "seconds")]
        lines.append(
            f"{name:16} {row['share']:9.3%} {row['saved']:9.2f} {row['memory']:11.2f} {ratios[0]:6.2f} "
            f"{row['seconds']:11.2f} {ratios[1]:6.2f}"
        )
    by_method = {row["method"]: row for row in reversed(rows.values())}
    for method, claim in CLAIMS.items():
        if method in by_method and "lora" in by_method:
            base = by_method["lora"] if method == "qlora" else first
            memory, seconds = (by_method[method][key] / base[key] - 1 for key in ("memory", "seconds"))
            lines.append(
                f"{method}: said: {claim}; here: {by_method[method]['share']:.2%} of the parameters, {memory:+.0%} memory, "
                f"{seconds:+.0%} time against {base['method']}, {by_method[method]['saved']:.1f} MB"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
