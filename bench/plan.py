"""How good the estimates of `posttrain plan` are: each job's estimate beside what it took, and the error.

    python bench/plan.py                              # a small random model: calibrate, plan other runs, run them
    python bench/plan.py --records FOLDER             # no job runs: each record of FOLDER by all the others

The first form builds one chain (sft_lora, dpo_lora), plans runs that were never built (full fine-tuning, more epochs, another
rank, half the rows), runs them, and compares. The second one leaves each recorded job of a folder out in turn and estimates it from the
rest; FOLDER is that of a project whose configuration is config/config.yaml, such as `make demo` leaves.
"""

import argparse
import json
import os
import sys
from pathlib import Path

import yaml
from common import REPOSITORY, parser, snakemake, timed

sys.path.insert(0, str(REPOSITORY / "scripts"))

CALIBRATION = ["results/dpo_lora/eval.json"]
PLANNED = [
    "results/dpo_full/eval.json",
    "results/sft_lora,epochs=3/eval.json",
    "results/dpo_lora,rank=2/eval.json",
    "results/half/eval.json",
]


def main() -> None:
    options = parser(__doc__)
    options.add_argument(
        "--folder", type=Path, default=REPOSITORY / ".bench/plan", help="where the small runs are built"
    )
    options.add_argument("--records", type=Path, help="leave each recorded job of this folder out in turn")
    options.add_argument("--configfile", type=Path, default=Path("config/config.yaml"), help="of that folder")
    options.add_argument("--probe", action="store_true", help="estimate by a probe of this machine, without records")
    options = options.parse_args()
    if options.records:
        os.chdir(options.records)
        leave_one_out(options)
    else:
        planned_and_run(options.folder.resolve())


def prepare(folder: Path) -> Path:
    """The tiny configuration with a larger model and more rows, so that there is something to time."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "examples").exists():
        (folder / "examples").symlink_to(REPOSITORY / "examples")
    values = yaml.safe_load((REPOSITORY / "config/test/tiny.yaml").read_text())
    values["bases"]["tiny"] |= {"hidden_size": 256, "layers": 6, "heads": 4, "vocab_size": 2000}
    for table in values["datasets"].values():
        table["limit"] = 150
    values["datasets"]["few"] = values["datasets"]["gsm8k"] | {"limit": 60}
    values["runs"]["half"] = values["runs"]["sft_lora"] | {"data": "few"}
    values["evaluation"] |= {"limit": 30, "max_new_tokens": 32, "data": ["gsm8k", "gsm8k_pairs"]}
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump(values))
    return file


def planned_and_run(folder: Path) -> None:
    config = prepare(folder)
    build = snakemake(folder, "--configfile", config, "--cores", os.cpu_count())
    print(f"calibration: {timed([*build, *CALIBRATION], folder, folder / 'calibration.log'):.0f} s", flush=True)
    plan = [sys.executable, "-m", "posttrain.cli", "plan", *PLANNED, "--configfile", config, "--json"]
    os.environ["PYTHONPATH"] = str(REPOSITORY / "scripts")
    print(f"plan: {timed(plan, folder, folder / 'plan.json'):.0f} s", flush=True)
    total = json.loads((folder / "plan.json").read_text())["total"]
    took = timed([*build, *PLANNED], folder, folder / "planned.log")
    print(f"planned: {total['jobs']} jobs, {total['seconds']:.0f} s; the command took {took:.0f} s")
    os.chdir(folder)
    from posttrain.reports import planned

    tell([(row.job, row.planned, row.took, row.low, row.high, row.source) for row in planned.compared()])
    memory = [(row.job, row.planned_memory, row.memory) for row in planned.compared() if row.rule in ("sft", "dpo")]
    for job, estimate, peak in memory:
        print(
            f"memory of {job}: {estimate / 1e6:.0f} MB planned, {peak / 1e6:.0f} MB taken, {100 * (estimate / peak - 1):+.0f} %"
        )


def leave_one_out(options: argparse.Namespace) -> None:
    from posttrain.cli import configuration
    from posttrain.models import machine
    from posttrain.planning import probe, records, timing
    from posttrain.planning.plan import computing
    from posttrain.planning.sizes import Sizes
    from posttrain.planning.timing import Known

    project, _ = configuration.project(options)
    sizes = Sizes(project)
    found, here = records.read(sizes), computing(machine.available())
    if options.probe:
        probe.measure(sizes.model(next(iter(project.config.bases))), here)
    measured = probe.read(here)
    rows = []
    for row in found:
        others = [] if options.probe else [other for other in found if other is not row]
        known = Known(others, here, measured)
        time = timing.estimate(row.rule, row.run, row.work, row.base, row.method, known)
        if time.seconds is not None:
            rows.append((row.job, time.seconds, row.seconds, time.low, time.high, time.source))
    tell(rows)


def tell(rows: list[tuple]) -> None:
    """Print each job's estimate beside what it took, and how far off they are."""
    import statistics

    width = max(len(row[0]) for row in rows)
    print(f"{'job':{width}}  planned     took   error  by")
    for job, planned, took, _, _, source in rows:
        print(f"{job:{width}}  {planned:5.1f} s  {took:5.1f} s  {100 * (planned / took - 1):+4.0f} %  {source}")
    for what, least in (("all jobs", 0.0), ("jobs of 5 s and more", 5.0)):
        errors = [abs(planned / took - 1) for _, planned, took, *_ in rows if took >= least]
        inside = [low <= took <= high for _, _, took, low, high, _ in rows if took >= least]
        if errors:
            near = sum(error <= 0.3 for error in errors)
            print(
                f"{what}: n {len(errors)}, median error {100 * statistics.median(errors):.0f} %, {near} within 30 %, "
                f"{sum(inside)} within the range told"
            )
    total = [sum(row[column] for row in rows) for column in (1, 2)]
    print(f"sum: {total[0]:.0f} s planned, {total[1]:.0f} s taken, {100 * (total[0] / total[1] - 1):+.0f} %")


if __name__ == "__main__":
    main()
