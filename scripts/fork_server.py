"""Import what stages import, then run each stage that asks in a fork (see `posttrain/runtime/fork_server.py`).

    python scripts/fork_server.py FOLDER

Makes FOLDER/socket when it is ready, and removes FOLDER when its standard input closes, as it does when the Snakemake command
ends that started it. It computes nothing itself: each stage starts as after its imports.
"""

import fcntl
import gc
import importlib
import json
import os
import runpy
import select
import shutil
import signal
import socket
import sys
from pathlib import Path

from posttrain.runtime.script import sleep_while_waiting

CODE = Path(__file__).parent
MODULES = (
    "scipy.stats",
    "trl.trainer.sft_trainer",
    "trl.trainer.dpo_trainer",
    "transformers.models.llama.modeling_llama",
    "posttrain.training.loop",
    "posttrain.inference.scoring",
    "posttrain.evaluation.suites",
    "posttrain.preflight.checks",
    "posttrain.models.merge_proof",
)


def versions() -> dict[Path, int]:
    """The time at which each file of the code was last changed."""
    return {path: path.stat().st_mtime_ns for path in CODE.rglob("*.py")}


def main(folder: Path) -> None:
    before = versions()
    sleep_while_waiting()
    for module in MODULES:
        importlib.import_module(module)
    gc.collect()
    gc.freeze()  # so that no fork copies these objects only to look at them
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the forks
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)  # they write to the terminal from another process group
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{folder}/socket")
        listener.listen(128)
        while True:
            if sys.stdin in select.select([listener, sys.stdin], [], [])[0]:
                shutil.rmtree(folder)
                return
            connection, _ = listener.accept()
            if os.fork() == 0:
                break
            connection.close()
    if versions() == before:  # otherwise the stage's own process imports the code that is there now
        run(connection)


def run(connection: socket.socket) -> None:
    """Become the process of a stage; a stage whose asking process is gone ends at once."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    _, streams, *_ = socket.recv_fds(connection, 1, 3)
    with connection.makefile() as lines:
        request = json.loads(lines.readline())
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    if threads := os.environ.get("OMP_NUM_THREADS"):
        sys.modules["torch"].set_num_threads(int(threads))
    connection.sendall(os.getpid().to_bytes(4))
    if not connection.recv(1):
        return
    # When the asking process ends, by kill -9 too, the kernel sends SIGIO, which ends this one.
    fcntl.fcntl(connection, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(connection, fcntl.F_SETFL, fcntl.fcntl(connection, fcntl.F_GETFL) | os.O_ASYNC)
    if select.select([connection], [], [], 0)[0]:
        return
    sys.argv, status, stage = request["arguments"], 1, os.getpid()
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
        raise
    finally:
        if os.getpid() == stage:  # and no rank that it has started
            connection.send(bytes([status & 255]))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
