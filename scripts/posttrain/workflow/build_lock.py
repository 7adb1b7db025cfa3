"""One command at a time builds a file: a command of another shell waits for those that both would build.

Snakemake decides what is missing when it starts, and removes a job's files just before the job runs: two commands that both
find a model missing would train it twice, and the second would take it away while the first evaluates it. Its own lock is no
way out; it makes the second command fail, outlives a kill, and is removed by any other command that ends.
"""

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from posttrain.runtime.console import say
from posttrain.runtime.script import this_process

FOLDER = Path(".snakemake/posttrain")
POLL_SECONDS = 1
_held = []  # open for as long as this process lives


def take(files: list[str]) -> bool:
    """Announce that this process builds `files`; where another one is at some of them, wait until it has built them.

    Returns:
        Whether it had to wait. Then nothing is announced, and what is left to build has to be worked out anew.
    """
    FOLDER.mkdir(parents=True, exist_ok=True)
    with (FOLDER / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        other = next(((file, both) for file, names in _others() if (both := sorted(names & set(files)))), None)
        if other is None:
            _announce(files)
            return False
    announcement, both = other
    who = json.loads(announcement.read_text())["who"]
    more = f" and {len(both) - 1} more" if len(both) > 1 else ""
    say(f"posttrain: waiting for {who}, which is building {both[0]}{more}")
    while _is_held(announcement) and not all(_is_newer(Path(name), announcement) for name in both):
        time.sleep(POLL_SECONDS)
    time.sleep(POLL_SECONDS)  # Snakemake notes a moment later that the files are whole
    return True


def _others() -> Iterator[tuple[Path, set[str]]]:
    """What the other commands that are at work have announced; announcements of dead ones are removed."""
    for file in sorted(FOLDER.glob("*.json")):
        if _is_held(file):
            yield file, set(json.loads(file.read_text())["files"])
        else:
            file.unlink()


def _announce(files: list[str]) -> None:
    file = (FOLDER / f"{socket.gethostname()}-{os.getpid()}.json").open("w")
    fcntl.flock(file, fcntl.LOCK_EX)
    json.dump({"who": this_process(), "files": files}, file)
    file.flush()
    _held.append(file)


def _is_held(announcement: Path) -> bool:
    """Whether its process lives: the kernel drops a lock on any death."""
    try:
        with announcement.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:  # it was found dead by a third one
        pass
    return False


def _is_newer(built: Path, announcement: Path) -> bool:
    try:
        return built.stat().st_mtime > announcement.stat().st_mtime
    except FileNotFoundError:
        return False
