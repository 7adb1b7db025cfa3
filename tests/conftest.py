"""Shared by all tests: where the repository is, and a way to run Snakemake as a user does."""

import contextlib
import functools
import os
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from posttrain.provenance import dry_run
from posttrain.runtime import fork_server, script

# Before anything imports torch: two workers are enough for two cores.
script.sleep_while_waiting()
os.environ.setdefault("OMP_NUM_THREADS", "1")

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
REPOSITORY = Path(__file__).resolve().parents[1]
# A tiny model's stage spends its time on imports: two at once, one thread each.
STAGES = ("sft", "reward", "logprobs", "dpo", "select", "ppo", "merge", "eval")
SIDE_BY_SIDE = ("--resources", "gpu=2", "--set-threads", *(f"{stage}=1" for stage in STAGES))
TINY = REPOSITORY / "config/test/tiny.yaml"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test with its folder's name, so that `-m unit` works, and those that compute with the random tiny model.

    tests/gpu marks what needs a GPU itself.
    """
    for item in items:
        if "random_tiny_folder" in item.fixturenames:
            item.add_marker("model")
        folder = item.path.relative_to(REPOSITORY / "tests").parts[0]
        if folder != "gpu":
            item.add_marker(folder)


def snakemake(folder: Path, *arguments: str, config: Path = TINY, **options) -> subprocess.CompletedProcess:
    """Run `snakemake` on `folder` with the tiny model's configuration; output is text, both streams in stdout."""
    return subprocess.run(
        command(folder, *arguments, config=config),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment(),
        **options,
    )


def write_made_data(folder: Path, config: Path) -> None:
    """Empty files in the place of those that a script of examples/data would write for a configuration, so that it can be planned."""
    for name in re.findall(r"my_data/[\w./-]+\.\w+", config.read_text()):
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()


def planned(folder: Path, *targets: str, config: Path = TINY) -> Counter:
    """Jobs by rule that a command would run."""
    jobs = dry_run.planned(*SIDE_BY_SIDE, "--directory", folder, "--configfile", config, "--", *targets)
    return Counter(job.rule for job in jobs)


def command(folder: Path, *arguments: str, config: Path = TINY) -> list[str]:
    """The command line that `snakemake` runs."""
    where = ["-s", REPOSITORY / "Snakefile", "--directory", folder, "--configfile", config]
    program = Path(sys.executable).parent / "snakemake"
    return [str(part) for part in (program, *SIDE_BY_SIDE, *where, "--cores", "2", *arguments)]


def environment() -> dict[str, str]:
    """The environment of a user who has set nothing of ours; all commands share one fork server."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("POSTTRAIN", "MLFLOW"))}
    return kept | {fork_server.VARIABLE: shared_server()}


@functools.cache
def shared_server() -> str:
    """A fork server that ends with these tests; importing is most of what a tiny model's stage does."""
    fork_server.start(REPOSITORY / "scripts/fork_server.py", fork_server.MIN_STAGES)
    return os.environ.pop(fork_server.VARIABLE, "off")


def write_rows(path: Path, rows: list[dict], shape: str = "messages") -> None:
    """Write normalised rows as `prepare_data` does."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from posttrain.data.rows import schema

    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=schema(shape)), path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty project folder with the example data."""
    shutil.copytree(REPOSITORY / "examples", tmp_path / "examples")
    return tmp_path


@pytest.fixture
def signals():
    """Put the signal handlers back that a training stage sets."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@contextlib.contextmanager
def refused(code: str, place: str | None = None) -> Iterator[pytest.ExceptionInfo]:
    """Expect a mistake of the user's of this kind at this place; the sentence itself is in tests/error_sentences.txt."""
    from posttrain.runtime.errors import UserError

    with pytest.raises(UserError) as error:
        yield error
    assert error.value.code == code, str(error.value)
    assert place is None or error.value.place == place, str(error.value)
