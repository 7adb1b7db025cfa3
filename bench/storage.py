"""How many requests a command sends to an S3 bucket when everything is built: moto on the loopback, the tiny model of the tests.

python bench/storage.py
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPOSITORY / "scripts"), str(REPOSITORY / "tests")]

from s3_server import Server, serve  # noqa: E402

TARGETS = ("data/gsm8k/data.json", "sft_lora/trained", "sft_lora/eval.json", "dpo_lora/eval.json")


def main() -> None:
    """Build the largest target once, then ask for each."""
    with tempfile.TemporaryDirectory() as folder, serve() as server:
        Path(folder, "examples").symlink_to(REPOSITORY / "examples")
        command(server, Path(folder), f"results/{TARGETS[-1]}")
        print(f"{'target':24} {'jobs':>5} {'HEAD':>5} {'list':>5} {'GET':>5} {'all':>5}")
        for target in TARGETS:
            planned = command(server, Path(folder), "-n", "--forceall", "--quiet", "host", "--", f"results/{target}")
            server.requests.clear()
            said = command(server, Path(folder), f"results/{target}")
            assert "Nothing to be done" in said, said
            counts = [
                sum(request.method == "HEAD" for request in server.requests),
                sum(request.method == "GET" and not request.is_download for request in server.requests),
                sum(request.is_download for request in server.requests),
            ]
            jobs = int(planned.rpartition("(")[2].split()[0])  # `11 stages would run (17 jobs in all).`
            print(f"{target:24} {jobs:5} {counts[0]:5} {counts[1]:5} {counts[2]:5} {len(server.requests):5}")


def command(server: Server, folder: Path, *arguments: str) -> str:
    """What Snakemake says; results go to the bucket."""
    store = ("--default-storage-provider", "s3", "--default-storage-prefix", "s3://team/project")
    where = ("-s", REPOSITORY / "Snakefile", "--configfile", REPOSITORY / "config/test/tiny.yaml", "--cores", "2")
    program = Path(sys.executable).with_name("snakemake")
    done = subprocess.run(
        [str(part) for part in (program, *where, *store, *arguments)],
        cwd=folder,
        env=os.environ | server.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


if __name__ == "__main__":
    main()
