"""What every stage script shares: its log, its lock, whole files or none, hashes, and errors told in one line."""

import argparse
import contextlib
import fcntl
import gc
import hashlib
import itertools
import json
import multiprocessing
import os
import shutil
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from posttrain.errors import UserError, printable

_console = sys.stderr
_progress = {"shown": 0.0, "open": False}  # when a line was last shown, and whether it may still be overwritten


def arguments(doc: str, **options: type) -> argparse.ArgumentParser:
    """A parser of required `--name` options; `doc` is the script's own docstring."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, kind in options.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, required=True)
    parser.add_argument("--log", type=Path, default=None, help="file for everything the libraries print")
    return parser


def run(parser: argparse.ArgumentParser, main: Callable[[argparse.Namespace], None]) -> None:
    """Run a script's `main` with its log and its lock; exit 1 with one line for a mistake of the user's."""
    options = parser.parse_args()
    try:
        with _lock(options.log), _log(options.log):
            main(options)
    except UserError as error:
        sys.exit(f"posttrain: {error}")


def say(message: str) -> None:
    """Tell the person at the terminal; the libraries' own output goes to the log."""
    end = "\n" if _progress["open"] else ""
    _progress["open"] = False
    lines = map(printable, message.split("\n"))  # a row's text may have what a terminal obeys
    print(end + "\n".join(lines), file=_console, flush=True)


def progress(message: str, left: float) -> None:
    """Show how far a stage is and how many seconds are left: one line that changes at a terminal, else one now and then.

    The first and the last are always shown.
    """
    now, last = time.monotonic(), left <= 0
    terminal = _console.isatty()
    if not last and now - _progress["shown"] < (0.5 if terminal else 15):
        return
    _progress["shown"] = now
    line = message + ("" if last else f"  {duration(left)} left")
    if not terminal:
        say(line)
        return
    width = shutil.get_terminal_size().columns - 1
    print(f"\r\x1b[K{line[:width]}", end="\n" if last else "", file=_console, flush=True)
    _progress["open"] = not last


def duration(seconds: float) -> str:
    """A time as people say it: 45 s, 12 min, 3 h 05 min."""
    minutes = round(seconds / 60)
    if minutes < 2:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02} min"


@contextlib.contextmanager
def _log(path: Path | None) -> Iterator[None]:
    """Send file descriptors 1 and 2 to the log, so that C++ output lands there too; `say` keeps the terminal.

    They stay there after a bug of ours, whose traceback then ends the log; Snakemake shows the end of a failed job's log.
    """
    if path is None:
        yield
        return
    global _console
    terminal = os.dup(2)
    _console = os.fdopen(terminal, "w")
    with path.open("w") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    try:
        yield
    except UserError as error:
        print(f"posttrain: {error}", file=sys.stderr, flush=True)  # the log says it as well
        os.dup2(terminal, 2)
        raise


@contextlib.contextmanager
def _lock(log: Path | None) -> Iterator[None]:
    """Hold the job's lock: after `kill -9` of Snakemake alone, its orphan may still be at work on the same files."""
    if log is None:
        yield
        return
    log.parent.mkdir(parents=True, exist_ok=True)
    with Path(f"{log}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"{log.stem}: another process is at work on this; waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A folder to fill, which takes the place of `path` when the block ends well and is removed when it does not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for stale in path.parent.glob(f".{path.name}.*"):  # left by a process that was killed; the job's lock is ours
        shutil.rmtree(stale)
    beside = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        yield beside
        beside.chmod(0o755)
        shutil.rmtree(path, ignore_errors=True)
        beside.rename(path)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A file to write, which takes the place of `path` when the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield beside
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def write_json(path: Path, values: Any) -> None:
    """Write JSON for people and programs, whole or not at all."""
    with whole_file(path) as file:
        file.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file that a stage wrote."""
    return json.loads(path.read_text())


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_hashes(folder: Path) -> dict[str, str]:
    """Relative name to SHA-256 of every file in a folder, hidden ones left out."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    return {str(path.relative_to(folder)): sha256(path) for path in files}


def link(source: Path, target: Path) -> None:
    """Give a file a second name; copy it where the file system cannot."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copy2(source, target)


def ordered_map(function: Callable[[Any], Any], items: Iterable[Any], cores: int) -> Iterator[Any]:
    """`function` of each item, in their order, on `cores` processes, with few items in memory at a time.

    One item is not worth a process. Each call runs without Python's search for circles of objects, which in millions of rows
    takes a third of the time and finds none.
    """
    function = partial(_without_circles, function)
    items = iter(items)
    first = list(itertools.islice(items, 2))
    items = itertools.chain(first, items)
    if cores == 1 or len(first) < 2:
        yield from map(function, items)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(cores, mp_context=context, initializer=_end_with_parent) as pool:
        waiting: deque = deque()
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > 2 * cores:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _without_circles(function: Callable[[Any], Any], item: Any) -> Any:
    gc.disable()
    try:
        return function(item)
    finally:
        gc.enable()


def _end_with_parent() -> None:
    """End this process when its parent does, killed or not; it would wait for work for ever."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


class Clock:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self.start = time.monotonic()

    def seconds(self) -> float:
        """Seconds, to the hundredth."""
        return round(time.monotonic() - self.start, 2)
