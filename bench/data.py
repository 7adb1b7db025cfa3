"""Compare reading, normalising, splitting and tokenising rows with a plain `datasets` script, in one run on the same cores.

    python bench/data.py [--rows 1000000]

Prints the seconds of both and their ratio (ours also drops exact and near duplicates, names every faulty row and writes the
counts), the peak memory of all our processes together, and last the ratio of the sums, `name ratio aim`. The rows are of 1 kB,
of words drawn from examples/data. A million take an hour on two cores; the time of both grows with the rows and no faster.
"""

import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil
from aims import tell
from common import BASE, CORES, REPOSITORY, parser, project, timed

SPEC = {
    "path": "rows.jsonl", "hub": None, "revision": "main", "subset": None, "split": "train", "format": None, "columns": {},
    "validation": 0.1, "limit": None, "near_duplicates": None, "max_dropped": 0.01, "image_folder": None,
}  # fmt: skip


def write_rows(path: Path, rows: int) -> None:
    """A prompt of 60 words and a completion of 120, about 1 kB, in each row."""
    lines = (REPOSITORY / "examples/data/gsm8k_train.jsonl").read_text().splitlines()
    words = [word for line in map(json.loads, lines) for text in line.values() for word in text.split()]
    chance = random.Random(1)
    with path.open("w") as file:
        for _ in range(rows):
            text = chance.choices(words, k=180)
            file.write(json.dumps({"prompt": " ".join(text[:60]), "completion": " ".join(text[60:])}) + "\n")


def watched(command: list, folder: Path) -> tuple[float, float]:
    """Seconds that a command takes, and the peak memory of it and its children together, in GiB."""
    peak, done = 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(1):  # each look takes a hundredth of a second from the measured processes
            try:
                tree = [process, *process.children(recursive=True)]
                peak = max(peak, sum(part.memory_full_info().uss for part in tree))
            except psutil.Error:  # one of them has just ended
                continue

    start = time.perf_counter()
    with (folder / "ours.log").open("w") as log:
        process = psutil.Popen(list(map(str, command)), cwd=folder, stdout=log, stderr=subprocess.STDOUT)
        threading.Thread(target=watch, daemon=True).start()
        failed = process.wait()
    done.set()
    if failed:
        raise SystemExit((folder / "ours.log").read_text())
    return time.perf_counter() - start, peak / 2**30


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--rows", type=int, default=60_000)
    rows = options.parse_args().rows
    project()
    scripts = REPOSITORY / "scripts"
    os.environ |= {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "spec.json").write_text(json.dumps(SPEC))
        (folder / "plain").mkdir()
        write_rows(folder / "rows.jsonl", rows)
        prepare = f"{scripts}/prepare_data.py --spec spec.json --output ours"
        tokenise = f"{scripts}/tokenize_data.py --data ours --model {BASE} --max-length 1024 --output tokens"
        plain = f"{REPOSITORY}/bench/plain_datasets.py"
        print(f"{rows:,} rows, {CORES} cores")
        print(f"{'':10} {'plain s':>8} {'ours s':>8} {'ratio':>6}  {'peak GiB':>8}")
        sums = [0.0, 0.0]
        for name, ours, theirs in (
            ("normalise", prepare, f"{plain} normalise rows.jsonl plain"),
            ("tokenise", tokenise, f"{plain} tokenise plain {BASE}"),
        ):
            slow = timed([sys.executable, *theirs.split(), CORES], folder, folder / "plain.log")
            fast, peak = watched([sys.executable, *ours.split(), "--cores", CORES], folder)
            print(f"{name:10} {slow:8.1f} {fast:8.1f} {slow / fast:6.2f}  {peak:8.2f}", flush=True)
            sums = [sums[0] + slow, sums[1] + fast]
        tell("data rows/s, ours / a plain datasets script", sums[0] / sums[1])


if __name__ == "__main__":
    main()
