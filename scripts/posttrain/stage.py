"""What every stage script shares: its log, its lock, its signals, whole files or none, hashes, errors told in one line."""

import argparse
import base64
import contextlib
import errno
import fcntl
import gc
import glob
import hashlib
import itertools
import json
import multiprocessing
import os
import shlex
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
import traceback
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from posttrain.errors import UserError, printable
from posttrain.runtime import events
from posttrain.runtime.pace import Pace

# What asks a stage to stop: Ctrl-C, a scheduler that ends or warns a job, a terminal that is closed.
READ_LAST = Path("results/.configuration")  # names the file that the last Snakemake command here read
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
# What a disk or a mount does to a stage, and what to do about it.
FAULTS = {
    errno.ENOSPC: ("the disk is full", "free some space"),
    errno.EDQUOT: ("your quota on this disk is used up", "free some space or ask for more"),
    errno.EROFS: ("it lies on a file system that is read-only", "mount that for writing"),
    errno.EACCES: ("this user may not use it", "give this user the right to"),
    errno.ENOTDIR: ("a part of this path is a file", "move that file away"),
    errno.EIO: ("the disk or its mount does not answer", "check the disk and the mount"),
    errno.ESTALE: ("the mount that it lies on has vanished", "mount that again"),
    errno.ENOTCONN: ("the mount that it lies on has vanished", "mount that again"),
}

_console = sys.stderr
_progress = {"shown": 0.0, "open": False}  # when a line was last shown, and whether it may still be overwritten
_pace = Pace()


def arguments(doc: str, **options: type) -> argparse.ArgumentParser:
    """A parser of required `--name` options; `doc` is the script's own docstring."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, kind in options.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, required=True)
    parser.add_argument("--log", type=Path, default=None, help="file for everything the libraries print")
    return parser


def held_out_rows(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add the option `--held-out` of a training stage: held-out rows whose prompts are answered on the way, or nothing."""
    parser.add_argument(
        "--held-out", type=Path, nargs="*", default=[], help="rows whose prompts are answered while the model trains"
    )
    return parser


def run(parser: argparse.ArgumentParser, main: Callable[[argparse.Namespace], None]) -> None:
    """Run a script's `main` with its log and its lock.

    Exits with 1 and one line for a mistake of the user's or a fault of the disk, with 128 + the number of a signal.
    """
    options = parser.parse_args()
    events.set_job(options.log)
    on_signals(end_at_once)
    one_gpu()
    os.environ.setdefault("TRACKIO_DIR", str(Path("results/logs/trackio").absolute()))  # Trackio reads it when imported
    try:
        with _lock(options.log), _log(options.log), _faults():
            main(options)
    except UserError as error:
        refuse(str(error))
    except OSError as error:
        if sentence := storage_fault(error):  # the log itself
            refuse(sentence)
        raise


def refuse(sentence: str) -> None:
    """End this process with a mistake of the user's; it never returns."""
    sys.exit(1 if events.send(kind="error", text=sentence) else f"posttrain: {sentence}")


def one_gpu() -> None:
    """Show this process the first of the GPUs that it may use; to be called before torch counts them.

    Transformers splits each batch over all GPUs that one process sees (`DataParallel`), which TRL refuses and PPO does not
    allow for. A process that a launcher started (`torchrun`, `accelerate launch`) has its GPU chosen by that.
    """
    if "LOCAL_RANK" in os.environ:
        return
    there = ",".join(str(i) for i, _ in enumerate(Path("/proc/driver/nvidia/gpus").glob("*")))
    gpus = os.environ.get("CUDA_VISIBLE_DEVICES", there).split(",")
    if len(gpus) > 1:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus[0]
        say(f"one GPU is used, {gpus[0].strip()}; {len(gpus) - 1} more can be seen and stay idle")


def on_signals(handler: Callable[[int, Any], None]) -> None:
    """Call `handler` for a signal that asks to stop, those apart that are ignored (`nohup`, a shell's background)."""
    for number in SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, handler)


def end_at_once(number: int, _: Any) -> None:
    """End by an exception, so that half files are removed on the way; the second time without."""
    signal.signal(number, signal.SIG_DFL)
    sys.exit(128 + number)


@contextlib.contextmanager
def _faults() -> Iterator[None]:
    """Tell a disk that is full, read-only or gone in one sentence.

    Raises:
        UserError: instead of what the library that wrote or read made of it.
    """
    try:
        yield
    except Exception as error:
        sentence = storage_fault(error)
        if sentence is None or isinstance(error, UserError):
            raise
        raise UserError(sentence) from error


def storage_fault(error: BaseException) -> str | None:
    """What a disk or a mount did, where that is what an exception comes from: path, fault, cure; otherwise None.

    Libraries written in Rust, C++ or SQL leave only the operating system's words, and torch not even those.
    """
    notes, cause, text = [], error, ""
    while cause:
        notes += getattr(cause, "__notes__", [])
        text += f"{cause}\n"
        number = cause.errno if isinstance(cause, OSError) else None
        if number in FAULTS:
            place = cause.filename or (notes[0] if notes else None)
            return _fault(number, str(place or "results"))
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    spoken = {number: [os.strerror(number)] for number in FAULTS if number not in (errno.EACCES, errno.ENOTDIR)}
    spoken[errno.ENOSPC] += ["database or disk is full", "] . unexpected pos ", "iostream error"]  # sqlite, torch.save
    found = [number for number, words in spoken.items() if any(word in text for word in words)]
    return _fault(found[0], notes[0] if notes else "results") if found else None


def _fault(number: int, place: str) -> str:
    what, cure = FAULTS[number]
    if number == errno.ENOSPC:
        cure += " (finished runs need no results/*/checkpoints)"
    return f"{place}: {what}; {cure} and type the same command again, which goes on from here"


def say(message: str, kind: str = "note") -> None:
    """Tell the person at the terminal; the libraries' own output goes to the log.

    Args:
        message: one or several lines.
        kind: what Snakemake's terminal (`snakemake_logger_plugin_posttrain`) does with it. A `note` is shown at once, a `summary`
            in the stage's one line, a `detail` only while the stage runs, a `table` after the last stage, `results` below that.
    """
    message = "\n".join(map(printable, message.split("\n")))  # a row's text may have what a terminal obeys
    if events.send(kind=kind, text=message):
        return
    end = "\n" if _progress["open"] else ""
    _progress["open"] = False
    _show(f"{end}{message}\n")


def _show(text: str) -> None:
    with contextlib.suppress(OSError):  # a terminal that was closed is no reason to stop
        print(text, end="", file=_console, flush=True)


def progress(message: str, done: int, total: int) -> None:
    """Show how far a stage is: one line that changes at a terminal, else one now and then.

    The first and the last are always shown. The time left is that of the recent pace.

    Args:
        message: where the stage is.
        done: how many of `total` steps are done.
    """
    now, last = time.monotonic(), done >= total
    left = _pace.left(done, total, now)
    terminal = _console.isatty() or events.VARIABLE in os.environ
    if not last and now - _progress["shown"] < (0.5 if terminal else 15):
        return
    _progress["shown"] = now
    if events.send(kind="progress", text=message, left=None if last else left, last=last):
        return
    line = message if last or left is None else f"{message}  {duration(left)} left"
    if not _console.isatty():
        say(line)
        return
    width = shutil.get_terminal_size().columns - 1
    _show(f"\r\x1b[K{line[:width]}" + ("\n" if last else ""))
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
        with contextlib.suppress(OSError):  # the disk may be full
            if error.__cause__:
                traceback.print_exception(error.__cause__)
            print(f"posttrain: {error}", file=sys.stderr, flush=True)  # the log says it as well
        os.dup2(terminal, 2)
        raise


@contextlib.contextmanager
def _lock(log: Path | None) -> Iterator[None]:
    """Hold the job's lock; the kernel drops it on any death.

    Another process may be at work on the same files: another shell's, or the orphan of a Snakemake that was killed alone.
    """
    if log is None:
        yield
        return
    log.parent.mkdir(parents=True, exist_ok=True)
    with Path(f"{log}.lock").open("a+") as file:  # not "w", which would empty what the holder wrote
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            say(f"{log.stem}: waiting for {file.read().strip() or 'another process'}, which is at work on it")
            fcntl.flock(file, fcntl.LOCK_EX)
        file.truncate(0)
        file.write(f"{this_process()}\n")
        file.flush()
        yield


def this_process() -> str:
    """What another shell is told that waits for this process."""
    program, *options = sys.argv
    command = shlex.join([Path(program).name, *options])
    return f"process {os.getpid()} on {socket.gethostname()} ({command})"


@contextlib.contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A folder to fill, which takes the place of `path` when the block ends well and is removed when it does not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for stale in path.parent.glob(f".{glob.escape(path.name)}.*"):  # of a process that was killed; the lock is ours
        shutil.rmtree(stale)
    beside, old = (Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent)) for _ in range(2))
    try:
        yield beside
        beside.chmod(0o755)
        with contextlib.suppress(FileNotFoundError):
            path.rename(old)  # so that `path` is away for no longer than a moment, in which nobody looks
        beside.rename(path)
    except Exception as error:
        error.add_note(str(path))
        raise
    finally:
        for folder in (beside, old):
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A file to write, which takes the place of `path` when the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    for stale in path.parent.glob(f".{glob.escape(path.name)}.*"):
        process = stale.suffix[1:]
        if process.isdigit() and not Path(f"/proc/{process}").exists():  # it was killed
            stale.unlink(missing_ok=True)
    try:
        yield beside
        beside.replace(path)
    except Exception as error:
        error.add_note(str(path))
        raise
    finally:
        beside.unlink(missing_ok=True)


def write_json(path: Path, values: Any) -> None:
    """Write JSON for people and programs, whole or not at all."""
    with whole_file(path) as file:
        file.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file that a stage wrote."""
    return json.loads(path.read_text())


def packed(values: Any) -> str:
    """JSON as short text for a command line, of which Linux takes 131,072 characters."""
    return base64.b64encode(zlib.compress(json.dumps(values).encode())).decode()


def unpacked(text: str) -> Any:
    """What `packed` made text of."""
    return json.loads(zlib.decompress(base64.b64decode(text)))


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def visible_files(folder: Path) -> list[Path]:
    """Every file in a folder, sorted; hidden ones, such as the time stamp that Snakemake keeps there, are left out."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))


def folder_hashes(folder: Path) -> dict[str, str]:
    """Relative name to SHA-256 of every visible file in a folder."""
    return {str(path.relative_to(folder)): sha256(path) for path in visible_files(folder)}


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
