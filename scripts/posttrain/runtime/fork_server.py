"""One process that has imported what stages import, and that is forked for each stage of a Snakemake command.

Importing takes longer than a small model's whole stage. `start` starts the server (`scripts/fork_server.py`) for a command; `ask`
lets it run a script. The script's own process stays: it waits for the fork, passes signals on to it and ends as it does. Where
there is no server, or none yet, the script runs in its own process.
"""

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

VARIABLE = "POSTTRAIN_FORK_SERVER"  # the path of the server's socket; set to "off" there is none
MIN_STAGES = 3  # a server for fewer costs more than it saves
# A forked process cannot use a GPU that its parent has looked at, as importing bitsandbytes does.
GPUS = ("/dev/nvidiactl", "/dev/kfd")

_servers: list[subprocess.Popen] = []


def start(script: Path, stages: int) -> None:
    """Start a server, which ends when this process does, however it ends.

    Args:
        script: `scripts/fork_server.py`.
        stages: number of stages that will ask; for fewer than `MIN_STAGES` there is no server.
    """
    if VARIABLE in os.environ or stages < MIN_STAGES or any(Path(gpu).exists() for gpu in GPUS):
        return
    folder = tempfile.mkdtemp(prefix="posttrain-")  # for this user alone
    os.environ[VARIABLE] = f"{folder}/socket"
    # Its standard input closes when this process ends. Signals to this process group are for the stages' own processes.
    streams = {"stdin": subprocess.PIPE, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    _servers.append(subprocess.Popen([sys.executable, script, folder], process_group=0, **streams))


def ask(signals: tuple[int, ...]) -> int | None:
    """Let the server run this script, with its arguments, folder, environment and open streams.

    Args:
        signals: those that are passed on.

    Returns:
        The exit status, or None where no server has taken the script; nothing has run then.
    """
    path = os.environ.pop(VARIABLE, "")
    request = {"arguments": sys.argv, "folder": str(Path.cwd()), "environment": dict(os.environ)}
    with socket.socket(socket.AF_UNIX) as server:
        try:
            server.connect(path)
            socket.send_fds(server, [b"\0"], [0, 1, 2])
            server.sendall(json.dumps(request).encode() + b"\n")
            pid = int.from_bytes(server.recv(4))
        except OSError:
            return None
        return _wait(server, os.pidfd_open(pid), signals) if pid else None


def _wait(server: socket.socket, stage: int, signals: tuple[int, ...]) -> int:
    """Wait for a fork to end; end as it does where a signal kills it."""

    def forward(number: int, _: Any) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(stage, number)

    def pause(*_: Any) -> None:
        forward(signal.SIGSTOP, None)
        os.kill(os.getpid(), signal.SIGSTOP)
        forward(signal.SIGCONT, None)  # this process goes on

    for number in signals:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, forward)
    signal.signal(signal.SIGTSTP, pause)
    server.sendall(b"\0")  # the fork begins
    select.select([stage], [], [])
    status = server.recv(1)
    if not status:
        os.kill(os.getpid(), signal.SIGKILL)
    return status[0]
