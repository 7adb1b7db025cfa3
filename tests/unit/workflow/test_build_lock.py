"""Commands of two shells: the second waits for what both would build, by a lock that no death leaves behind."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import REPOSITORY

from posttrain.workflow import build_lock

SCRIPT = """
import sys, time
from pathlib import Path
from posttrain.workflow import build_lock
build_lock.POLL_SECONDS = 0.05
waited = build_lock.take(sys.argv[2:])
Path(sys.argv[1]).write_text(str(waited))
if not waited:
    time.sleep(30)
"""


@pytest.fixture
def command(in_folder):
    """Start a command that wants to build files, and notes in `name` whether it had to wait."""
    started = []

    def start(name: str, *files: str) -> subprocess.Popen:
        options = {
            "env": os.environ | {"PYTHONPATH": str(REPOSITORY / "scripts")},
            "stderr": subprocess.PIPE,
            "text": True,
        }
        started.append(subprocess.Popen([sys.executable, "-c", SCRIPT, name, *files], **options))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def noted(name: str) -> str:
    end = time.monotonic() + 30
    while not (Path(name).exists() and Path(name).read_text()):
        assert time.monotonic() < end
        time.sleep(0.02)
    return Path(name).read_text()


def test_commands_that_build_other_files_do_not_wait(command):
    command("one", "a", "b")
    assert noted("one") == "False"
    command("two", "c")
    assert noted("two") == "False"


def test_the_second_waits_until_what_both_would_build_is_there_and_says_for_whom(command):
    first = command("one", "a", "b", "c")
    assert noted("one") == "False"
    Path("c").touch()
    os.utime("c", (0, 0))  # an old one, which the first is about to replace
    second = command("two", "c", "b", "d")
    who = f"process {first.pid} on {socket.gethostname()} (-c one a b c)"
    assert second.stderr.readline() == f"posttrain: waiting for {who}, which is building b and 1 more\n"
    Path("b").touch()
    with pytest.raises(subprocess.TimeoutExpired):
        second.wait(0.5)
    Path("c").touch()
    assert noted("two") == "True"
    assert first.poll() is None


def test_a_command_that_was_killed_is_not_waited_for(command):
    first = command("one", "a")
    assert noted("one") == "False"
    second = command("two", "a")
    assert "waiting for" in second.stderr.readline()
    first.kill()
    assert noted("two") == "True"
    command("three", "a")
    assert noted("three") == "False"
    names = {json.loads(file.read_text())["who"].split(" -c ")[-1] for file in build_lock.FOLDER.glob("*.json")}
    assert len(names) == 1  # what the dead ones announced is gone
