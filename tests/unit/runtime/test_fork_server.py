"""Stages that are forked from one process behave as if each had been started by itself."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import REPOSITORY

from posttrain.runtime import fork_server

SERVER = f"""
import sys
from pathlib import Path

sys.path.insert(0, "{REPOSITORY}/scripts")
import fork_server

fork_server.MODULES = ("torch",)  # is enough, and quick
fork_server.CODE = Path(sys.argv[1])
fork_server.main(Path(sys.argv[1]))
"""
STAGE = f"""
import os
import random
import sys
import time
from pathlib import Path

sys.path.insert(0, "{REPOSITORY}/scripts")
from posttrain.runtime.script import arguments, run


def main(options):
    forked = "torch" in sys.modules
    import torch

    Path("told").write_text(f"{{os.getpid()}} {{forked}} {{os.environ.get('LEAK')}} {{torch.get_num_threads()}}")
    os.environ["LEAK"] = "yes"
    torch.set_num_threads(3)
    print("to the output")
    if options.do == "wait":
        time.sleep(60)
    if options.do == "fail":
        1 / 0
    sys.exit(int(options.do))


if __name__ == "__main__":
    run(arguments(__doc__, do=str), main)
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The path of a server's socket."""
    script = tmp_path_factory.mktemp("server") / "server.py"
    script.write_text(SERVER)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fork_server, "GPUS", ())
        patch.delenv(fork_server.VARIABLE, raising=False)
        fork_server.start(script, fork_server.MIN_STAGES)
        path = Path(os.environ[fork_server.VARIABLE])
    wait_for(path.exists)
    yield path
    fork_server._servers.pop().communicate(timeout=30)
    assert not path.parent.exists()


@pytest.fixture
def stage(tmp_path, server):
    """Start a stage's script; `told()` waits for what it writes: process, whether it was forked, a leak, its threads."""
    (tmp_path / "stage.py").write_text(STAGE)

    def start(do: str, path: Path = server) -> subprocess.Popen:
        environment = os.environ | {fork_server.VARIABLE: str(path), "OMP_NUM_THREADS": "2"}
        command = [sys.executable, "stage.py", "--do", do]
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(command, cwd=tmp_path, env=environment, **streams)

    return start


@pytest.fixture
def told(tmp_path):
    def read() -> list[str]:
        wait_for(lambda: (tmp_path / "told").exists() and (tmp_path / "told").read_text().count(" ") == 3)
        return (tmp_path / "told").read_text().split()

    return read


def wait_for(condition) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def lives(process: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("status", [0, 7])
def test_a_fork_has_the_scripts_folder_environment_threads_streams_and_exit_status(stage, told, status):
    process = stage(str(status))
    assert process.communicate(timeout=60) == ("to the output\n", "")
    assert process.returncode == status
    assert told()[1:] == ["True", "None", "2"]


def test_a_bug_is_told_on_the_scripts_own_stream(stage):
    process = stage("fail")
    assert "ZeroDivisionError" in process.communicate(timeout=60)[1]
    assert process.returncode == 1


def test_a_signal_reaches_the_stage_once_and_ends_both(stage, told):
    process = stage("wait")
    fork = int(told()[0])
    assert fork != process.pid
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    wait_for(lambda: not lives(fork))


def test_kill_9_of_either_ends_the_other(stage, told, tmp_path):
    process = stage("wait")
    fork = int(told()[0])
    process.kill()
    process.communicate(timeout=60)
    wait_for(lambda: not lives(fork))
    (tmp_path / "told").unlink()
    process = stage("wait")
    os.kill(int(told()[0]), signal.SIGKILL)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL


def test_without_a_server_the_script_runs_in_its_own_process(stage, told, tmp_path):
    process = stage("0", tmp_path / "nobody")
    process.communicate(timeout=60)
    assert told()[:2] == [str(process.pid), "False"]


def test_code_that_changed_since_the_server_began_runs_in_a_process_of_its_own(stage, told, server):
    library = server.parent / "library.py"
    library.touch()
    try:
        stage("0").communicate(timeout=60)
        assert told()[1] == "False"
    finally:
        library.unlink()


def test_the_server_ends_with_the_process_that_started_it(tmp_path, monkeypatch):
    (tmp_path / "server.py").write_text(SERVER.replace('("torch",)', "()"))
    code = (
        "import os, pathlib, time; from posttrain.runtime import fork_server as f; f.GPUS = (); "
        "f.start(pathlib.Path('server.py'), 9); print(f._servers[0].pid, os.environ[f.VARIABLE], flush=True); time.sleep(60)"
    )
    monkeypatch.delenv(fork_server.VARIABLE, raising=False)
    environment = os.environ | {"PYTHONPATH": f"{REPOSITORY}/scripts"}
    starter = subprocess.Popen(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True
    )
    pid, path = starter.stdout.readline().split()
    wait_for(Path(path).exists)
    starter.kill()
    starter.communicate()
    wait_for(lambda: not lives(int(pid)))
    assert not Path(path).parent.exists()


@pytest.mark.parametrize(
    ("stages", "variable", "gpus"),
    [(fork_server.MIN_STAGES - 1, None, ()), (9, "off", ()), (9, None, ("/dev/null",))],
    ids=["few stages", "off", "a GPU"],
)
def test_there_is_no_server_where_it_does_not_pay_or_could_not_work(monkeypatch, stages, variable, gpus):
    monkeypatch.delenv(fork_server.VARIABLE, raising=False)
    if variable:
        monkeypatch.setenv(fork_server.VARIABLE, variable)
    monkeypatch.setattr(fork_server, "GPUS", gpus)
    before = list(fork_server._servers)
    fork_server.start(Path("no/such/script.py"), stages)
    assert fork_server._servers == before
    assert os.environ.get(fork_server.VARIABLE) == variable
