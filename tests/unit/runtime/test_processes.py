"""Several processes of one job: how they start, what they are told, and that none is left whatever ends one of them."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import REPOSITORY, refused

from posttrain.runtime import processes

HEAD = f"""
import os, signal, sys, time
sys.path.insert(0, {str(REPOSITORY / "scripts")!r})
from pathlib import Path
from posttrain.runtime import processes, script
from posttrain.runtime.console import say
from posttrain.runtime.errors import UserError
rank = processes.rank
"""
# The lines of a script's `main`, before which each rank says that it is there.
READY = "Path(f'pid-{rank()}').write_text(str(os.getpid()))"
WAIT = "while True: time.sleep(0.01)"


@pytest.fixture
def start(tmp_path):
    """Start a script of several processes, with these lines as its `main`, in a process group of its own."""
    started = []

    def begin(*lines: str, count: int = 2) -> subprocess.Popen:
        body = "".join(f"    {line}\n" for line in (READY, *lines))
        run = "script.run(script.arguments('doc'), main, processes=True)\n"
        (tmp_path / "stage.py").write_text(f"{HEAD}def main(options):\n{body}{run}")
        environment = os.environ | {"POSTTRAIN_HARDWARE": json.dumps({"processes": count})}
        streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
        program = [sys.executable, "stage.py", "--log", "stage.log"]
        started.append(subprocess.Popen(program, cwd=tmp_path, env=environment, process_group=0, **streams))
        return started[-1]

    yield begin
    for process in started:
        process.kill()
        process.wait()
        process.stderr.close()


def ranks(folder: Path, count: int = 2) -> list[int]:
    """The process ids of the ranks, once all are at work."""
    files = [folder / f"pid-{rank}" for rank in range(count)]
    end = time.monotonic() + 60
    while not all(file.exists() and file.read_text() for file in files):
        assert time.monotonic() < end
        time.sleep(0.01)
    return [int(file.read_text()) for file in files]


def all_end(pids: list[int]) -> bool:
    end = time.monotonic() + 60
    while any(map(is_there, pids)):
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def is_there(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_each_rank_knows_its_number_and_the_first_one_speaks(start, tmp_path):
    job = start("Path(f'{rank()}-{processes.count()}').touch()", "say('hello')")
    assert job.communicate()[1] == "hello\n"
    assert job.returncode == 0
    assert sorted(path.name for path in tmp_path.glob("?-?")) == ["0-2", "1-2"]
    assert (tmp_path / "stage.tsv").exists()  # what the stage took, which the launcher writes


def test_a_script_that_is_one_process_starts_none(start, tmp_path):
    job = start("assert processes.count() == 1 and not processes.has_launcher()", count=1)
    assert job.wait() == 0


@pytest.mark.parametrize("who", [0, 1], ids=["first", "second"])
def test_a_mistake_of_the_users_in_one_rank_is_told_once_and_ends_all(start, tmp_path, who):
    error = "UserError('not-finite', 'sft', ['the loss is nan', 'twice'], 'write less')"
    job = start(f"if rank() == {who}: raise {error}", WAIT)
    assert job.communicate()[1] == "posttrain: sft: the loss is nan\ntwice; write less\n"
    assert job.returncode == 1
    assert all_end(ranks(tmp_path))
    assert (tmp_path / "stage.log").read_text().count("posttrain:") == 1


def test_a_mistake_that_all_ranks_find_is_told_once(start):
    job = start("raise UserError('x', 'sft', 'no')")
    assert job.communicate()[1] == "posttrain: sft: no\n"


def test_a_bug_in_one_rank_ends_all_and_its_traceback_is_in_the_log(start, tmp_path):
    job = start("if rank() == 1: 1 / 0", WAIT)
    assert job.wait(60) == 1
    assert "ZeroDivisionError" in (tmp_path / "stage.log").read_text()
    assert all_end(ranks(tmp_path))


@pytest.mark.parametrize("who", ["launcher", "first", "second"])
def test_kill_9_of_any_process_ends_all_at_once(start, tmp_path, who):
    job = start(WAIT)
    pids = ranks(tmp_path)
    os.kill({"launcher": job.pid, "first": pids[0], "second": pids[1]}[who], signal.SIGKILL)
    assert job.wait(60) == -signal.SIGKILL
    assert all_end(pids)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
@pytest.mark.parametrize("group", [False, True], ids=["launcher", "group"])
def test_a_signal_reaches_every_rank_once_and_its_status_is_the_jobs(start, tmp_path, number, group):
    lines = ("got = []", "script.on_signals(lambda number, _: got.append(number))", "Path(f'up-{rank()}').touch()")
    wait = "while not got: time.sleep(0.01)"
    slowly = (
        "time.sleep(0.5 * rank()); Path(f'got-{rank()}').write_text(str(list(map(int, got)))); sys.exit(128 + got[0])"
    )
    job = start(*lines, wait, slowly)
    pids = ranks(tmp_path)
    while len(list(tmp_path.glob("up-*"))) < 2:
        time.sleep(0.01)
    (os.killpg if group else os.kill)(job.pid, number)
    assert job.wait(60) == 128 + number
    assert all_end(pids)
    assert [(tmp_path / f"got-{rank}").read_text() for rank in range(2)] == [str([int(number)])] * 2


def test_the_same_signal_twice_ends_all_without_waiting(start, tmp_path):
    first = "def first(number, _): signal.signal(number, signal.SIG_DFL); Path(f'first-{rank()}').touch()"
    job = start(first, "script.on_signals(first)", "Path(f'up-{rank()}').touch()", WAIT)
    pids = ranks(tmp_path)
    for sign in ("up", "first"):
        while len(list(tmp_path.glob(f"{sign}-*"))) < 2:
            time.sleep(0.01)
        os.kill(job.pid, signal.SIGTERM)
    assert job.wait(60) == -signal.SIGTERM
    assert all_end(pids)


def test_all_ranks_start_again_where_one_asks_for_it(start, tmp_path):
    again = "if processes.restarted_for() is None and rank() == 1: processes.start_again('out of memory')"
    job = start("reason = os.environ.get('POSTTRAIN_RESTART')", again, "Path(f'{rank()}-{reason}').touch()")
    assert job.wait(60) == 0
    assert {path.name for path in tmp_path.glob("*-out of memory")} == {"0-out of memory", "1-out of memory"}


def test_a_second_launch_waits_for_the_first_ones_ranks(start, tmp_path):
    first = start(WAIT)
    ranks(tmp_path)
    second = start()
    line = second.stderr.readline()
    assert f"waiting for process {first.pid} on" in line
    first.kill()
    assert second.wait(30) == 0


def test_more_processes_than_cores_are_refused(monkeypatch):
    monkeypatch.setattr(processes, "gpus", list)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    processes.check_devices(2)
    with refused("too-many-processes", "hardware.processes"):
        processes.check_devices(3)


def test_gpus_are_those_that_can_be_seen(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-5")
    assert processes.gpus() == ["3", "GPU-5"]
    with refused("too-many-processes"):
        processes.check_devices(3)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert processes.gpus() == []


@pytest.mark.parametrize(
    ("table", "strategy"), [({}, "single"), ({"processes": 2}, "ddp"), ({"processes": 2, "strategy": "fsdp"}, "fsdp")]
)
def test_the_strategy_is_ddp_where_none_is_named(monkeypatch, table, strategy):
    monkeypatch.setenv(processes.VARIABLE, json.dumps(table))
    assert processes.hardware()["strategy"] == strategy
