"""How time and memory grow: of the graph and the report with the number of runs, of training with rows, length and model.

    python bench/growth.py graph built training report mlflow

graph: a dry run of so many DPO runs of one SFT run, and what Snakemake alone takes for the same jobs (bench/plain.smk).
training: SFT with LoRA of random tiny models by the workflow, one of rows, length of the rows and width changed at a time.
built: the same dry run once every file is there, which looks at each of them.
mlflow: runs of 100 steps and 12 metrics in a new SQLite file, as training logs them, and a search for all of them.
report: `make_report.py` on made-up results of 400 steps a run, the page's size, and when headless Chromium has painted
something of it, and loaded all of it.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml
from common import CORES, REPOSITORY, parser, snakemake, timed
from graph import dry_run, plain_dry_run

sys.path[:0] = [str(REPOSITORY / "scripts"), str(REPOSITORY / "tests")]
import made_up_results  # noqa: E402

from posttrain.runtime.atomic import write_json  # noqa: E402

GRAPH_RUNS = (10, 100, 1000, 10_000)
PARTS = {"prompt": "question", "completion": "answer"}
REPORT_RUNS = (10, 50, 200)
BUILT_RUNS = (100, 300, 1000)
MLFLOW_RUNS = (30, 100, 300)
# Steps of 4 rows, questions in a row, width
TRAININGS = (
    (3, 2, 256),
    (6, 2, 256),
    (12, 2, 256),
    (24, 2, 256),
    (48, 2, 256),
    (6, 1, 256),
    (6, 4, 256),
    (6, 2, 128),
    (6, 2, 512),
)


def measured(command: list, folder: Path) -> tuple[float, float]:
    """Processor seconds, which other programs change less than the clock's, and the peak of memory, in MiB, of a command."""
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(list(map(str, command)), cwd=folder, stdout=log, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{' '.join(map(str, command))}\n{(folder / 'log').read_text()}")
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def graph(folder: Path) -> None:
    """Print what a dry run takes."""
    shutil.copytree(REPOSITORY / "examples", folder / "examples")
    print("  runs  CPU s    MiB   plain: CPU s    MiB")
    for runs in GRAPH_RUNS:
        ours, plain = measured(dry_run(folder, runs), folder), measured(plain_dry_run(folder, runs), folder)
        print(f"{runs:6} {ours[0]:6.1f} {ours[1]:6.0f} {plain[0]:14.1f} {plain[1]:6.0f}", flush=True)


def built(folder: Path) -> None:
    """Print what a command takes that finds everything built, and how many files that are."""
    from posttrain.provenance.dry_run import planned

    shutil.copytree(REPOSITORY / "examples", folder / "examples")
    print("  runs  declared files  CPU s    MiB")
    for runs in BUILT_RUNS:
        command = dry_run(folder, runs)
        files = [
            file
            for job in planned("--directory", folder, "--configfile", folder / f"{runs}.yaml")
            for file in job.outputs
        ]
        for file in map(folder.joinpath, files):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch() if file.suffix else file.mkdir(exist_ok=True)
        seconds, memory = measured(command, folder)
        print(f"{runs:6} {len(files):15} {seconds:6.1f} {memory:6.0f}", flush=True)
        shutil.rmtree(folder / "results")


def mlflow(folder: Path) -> None:
    """Print what MLflow takes of so many runs in a SQLite file."""
    from mlflow import MlflowClient

    from posttrain.training.mlflow_tracking import _log_lines

    steps = [{"step": i, "seconds": float(i)} | {f"metric_{k}": i / (k + 1) for k in range(12)} for i in range(1, 101)]
    print("  runs  CPU s to log  MiB  CPU s to search")
    for runs in MLFLOW_RUNS:
        file = folder / f"{runs}.db"
        store = MlflowClient(f"sqlite:///{file}")
        experiment = store.create_experiment("posttrain")
        start = time.process_time()
        for i in range(runs):
            run_id = store.create_run(experiment, run_name=f"dpo_{i}").info.run_id
            _log_lines(store, run_id, steps, 0)
        logged = time.process_time()
        found, token = 0, None
        while token != "":
            page = store.search_runs([experiment], max_results=1000, page_token=token)
            found, token = found + len(page), page.token or ""
        assert found == runs
        size, searched = file.stat().st_size / 2**20, time.process_time() - logged
        print(f"{runs:6} {logged - start:13.1f} {size:4.0f} {searched:16.2f}", flush=True)


def report(folder: Path) -> None:
    """Print what the report takes to make and to open."""
    print("  runs  CPU s    MiB   page, MiB   painted, s   loaded, s")
    for runs in REPORT_RUNS:
        place = folder / str(runs)
        place.mkdir()
        os.chdir(place)
        context = place / "context.json"
        write_json(context, made_up_results.write(runs, steps=400))
        script = [sys.executable, REPOSITORY / "scripts/make_report.py", "--context", context, "--cores", 1]
        seconds, memory = measured([*script, "--output", "report.html", "--figures", "figures"], place)
        page = place / "report.html"
        size, (painted, loaded) = page.stat().st_size / 2**20, opening(page)
        print(f"{runs:6} {seconds:6.1f} {memory:6.0f} {size:11.1f} {painted:12.2f} {loaded:11.2f}", flush=True)


def opening(page: Path) -> tuple[float, float]:
    """Seconds until headless Chromium first paints a page, and until it has run its scripts and laid it out: the best of three."""
    from playwright.sync_api import sync_playwright

    times = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for _ in range(3):
            tab = browser.new_page(bypass_csp=True)  # the page forbids what waiting needs
            tab.goto(page.as_uri())
            loaded = tab.evaluate("new Promise(done => requestAnimationFrame(() => done(performance.now())))")
            tab.wait_for_function("performance.getEntriesByType('paint').length")
            painted = tab.evaluate("performance.getEntriesByType('paint')[0].startTime")
            times.append((painted / 1000, loaded / 1000))
            tab.close()
        browser.close()
    return tuple(map(min, zip(*times, strict=True)))


def training(folder: Path) -> None:
    """Print what a step takes after the first one, and the peak of memory, with four times as much of one thing at a time."""
    write_training(folder)
    runs = yaml.safe_load((folder / "training.yaml").read_text())["runs"]
    targets = [f"results/{name}/train.json" for name in runs]
    command = snakemake(folder, "--configfile", folder / "training.yaml", "--cores", CORES, *targets)
    timed(command, folder, folder / "log")
    print("  rows  questions a row   width   tokens   s after the first step   tokens/s    MiB")
    for name, run in runs.items():
        lines = [json.loads(line) for line in (folder / f"results/{name}/train.jsonl").read_text().splitlines()]
        seconds = lines[-1]["seconds"] - lines[0]["seconds"]
        tokens = lines[-1]["num_tokens"] - lines[0]["num_tokens"]
        width, memory = run["from"].removeprefix("width_"), lines[-1]["memory_gib"] * 1024
        rows, questions = run["max_steps"] * run["batch_size"], run["data"].removeprefix("rows_of_")
        row = (
            f"{rows:6} {questions:>16} {width:>7} {tokens:8.0f} {seconds:24.1f} {tokens / seconds:10.0f} {memory:6.0f}"
        )
        print(row, flush=True)


def write_training(folder: Path) -> None:
    """A configuration of SFT runs around 24 rows of 2 questions and a width of 256, and its rows."""
    questions = [json.loads(line) for line in (REPOSITORY / "examples/data/gsm8k_train.jsonl").read_text().splitlines()]
    sets, bases, runs = {}, {}, {}
    for steps, length, width in TRAININGS:
        data, base = f"rows_of_{length}", f"width_{width}"
        rows = [
            {key: "\n\n".join(questions[(i + k * 7) % 48][part] for k in range(length)) for key, part in PARTS.items()}
            for i in range(48)
        ]
        (folder / f"{data}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        sets[data] = {"path": f"{data}.jsonl", "validation": 0, "near_duplicates": None, "licence": "mit"}
        bases[base] = {"source": "random", "text": data, "hidden_size": width, "layers": 8, "vocab_size": 2048}
        run = {"from": base, "objective": "sft", "method": "lora", "data": data, "batch_size": 4, "max_steps": steps}
        runs[f"sft_{steps}_{length}_{width}"] = run
    config = {"bases": bases, "datasets": sets, "runs": runs, "tracking": {"mlflow": False}}
    (folder / "training.yaml").write_text(yaml.safe_dump(config, sort_keys=False))


TABLES = {table.__name__: table for table in (graph, built, training, report, mlflow)}


def main() -> None:
    options = parser(__doc__)
    options.add_argument("tables", nargs="+", choices=TABLES)
    for name in options.parse_args().tables:
        with tempfile.TemporaryDirectory() as scratch:
            TABLES[name](Path(scratch))


if __name__ == "__main__":
    main()
