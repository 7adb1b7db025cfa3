"""How time and memory grow: of the graph with the number of runs, of the report with the number of runs on it.

    python bench/growth.py graph report

graph: a dry run of so many DPO runs of one SFT run, and what Snakemake alone takes for the same jobs (bench/plain.smk).
report: `make_report.py` on made-up results of 400 steps a run, the page's size, and when headless Chromium has painted
something of it, and loaded all of it.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from common import REPOSITORY, timed
from graph import dry_run, plain_dry_run

sys.path[:0] = [str(REPOSITORY / "scripts"), str(REPOSITORY / "tests")]
import made_up_results  # noqa: E402

from posttrain.stage import packed  # noqa: E402

GRAPH_RUNS = (10, 100, 1000, 10_000)
REPORT_RUNS = (10, 50, 200)
TIMED = """<script>addEventListener("load", () => {
    document.title = `${performance.getEntriesByType("paint")[0].startTime} ${performance.now()}`
})</script>"""


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


def report(folder: Path) -> None:
    """Print what the report takes to make and to open."""
    print("  runs  CPU s    MiB   page, MiB   painted, s   loaded, s")
    for runs in REPORT_RUNS:
        place = folder / str(runs)
        place.mkdir()
        os.chdir(place)
        context = packed(made_up_results.write(runs, steps=400))
        script = [sys.executable, REPOSITORY / "scripts/make_report.py", "--context", context, "--cores", 1]
        seconds, memory = measured([*script, "--output", "report.html", "--figures", "figures"], place)
        page = place / "report.html"
        print(
            f"{runs:6} {seconds:6.1f} {memory:6.0f} {page.stat().st_size / 2**20:11.1f} {opening(page):13.2f}",
            flush=True,
        )


def opening(page: Path) -> tuple[float, float]:
    """Seconds until headless Chromium first paints a page, and until it has laid it out and run its scripts: the best of three."""
    copy = page.with_name("timed.html")
    copy.write_text(page.read_text() + TIMED)
    chromium = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", copy.as_uri()]
    times = []
    for _ in range(3):
        timed(chromium, page.parent, page.with_name("dom"))
        times.append(
            [
                float(ms) / 1000
                for ms in re.search(r"<title>([\d.]+) ([\d.]+)</title>", page.with_name("dom").read_text()).groups()
            ]
        )
    return tuple(map(min, zip(*times, strict=True)))


TABLES = {table.__name__: table for table in (graph, report)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="+", choices=TABLES)
    for name in parser.parse_args().tables:
        with tempfile.TemporaryDirectory() as scratch:
            TABLES[name](Path(scratch))


if __name__ == "__main__":
    main()
