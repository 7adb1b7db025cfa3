"""How every stage script starts and ends: its options, its log, its lock, its signals, errors told in one line."""

import argparse
import contextlib
import fcntl
import os
import resource
import shlex
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from posttrain.runtime import console, events, fork_server
from posttrain.runtime.console import say
from posttrain.runtime.errors import UserError
from posttrain.runtime.processes import has_launcher, is_main, leave, planned, rank, report, start
from posttrain.runtime.storage_faults import storage_fault

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


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


def on_policy(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add `--held-out`, and `--reward-models`: the folders of the runs and bases that the reward comes from."""
    parser.add_argument("--reward-models", type=Path, nargs="*", default=[], help="folders of the reward's models")
    return held_out_rows(parser)


def run(
    parser: argparse.ArgumentParser,
    main: Callable[[argparse.Namespace], None],
    *,
    processes: bool = False,
    replicas: bool = False,
) -> None:
    """Run a script's `main` with its log and its lock.

    Args:
        processes: whether the script can use the several processes that the configuration asks for (`hardware.processes`).
        replicas: whether it can with all of the model in each of them.

    Exits with 1 and one line for a mistake of the user's or a fault of the disk, with 128 + the number of a signal.
    """
    options = parser.parse_args()
    if (status := fork_server.ask(SIGNALS)) is not None:
        sys.exit(status)
    if not is_main() and options.log:  # of another launcher than ours, whose ranks share a log and a lock
        options.log = options.log.with_suffix(f".{rank()}.log")
    events.set_job(options.log)
    on_signals(end_at_once)
    wanted, gpus = planned(replicas) if processes or replicas else (1, 1)
    if wanted == 1:
        limit_gpus(gpus)
    sleep_while_waiting()
    os.environ.setdefault("TRACKIO_DIR", str(Path("results/logs/trackio").absolute()))  # Trackio reads it when imported
    try:
        with _lock(options.log), _log(options.log), _faults():
            clock = console.Clock()
            if start(wanted, SIGNALS):
                main(options)
                leave()
            if not has_launcher():
                _write_costs(options.log, clock.seconds())
    except UserError as error:
        if has_launcher():
            report(error)
            sys.exit(1)
        refuse(str(error))
    except OSError as error:
        if fault := storage_fault(error):  # of the log itself
            refuse(str(fault))
        raise


def _write_costs(log: Path | None, seconds: float) -> None:
    """Write what this stage took beside its log, with Snakemake's names and units; it cannot see into a fork.

    `max_rss` is the larger of this process's and its largest child's, in MiB.
    """
    if log is None:
        return
    uses = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    memory = max(use.ru_maxrss for use in uses) / 1024
    processor = sum(use.ru_utime + use.ru_stime for use in uses)
    table = f"s\tmax_rss\tcpu_time\n{seconds}\t{memory:.2f}\t{processor:.2f}\n"
    log.with_name(log.name.removesuffix(".log") + ".tsv").write_text(table)


def refuse(sentence: str) -> NoReturn:
    """End this process with a mistake of the user's; it never returns."""
    sys.exit(1 if events.send(kind="error", text=sentence) else f"posttrain: {sentence}")


def sleep_while_waiting() -> None:
    """Let OpenMP's threads sleep while they wait for each other; to be called before torch is imported.

    By default they spin, and a thread that spins keeps the core that another program, or the thread that it waits for, needs
    (`bench/contention.py`). Fewer threads on a busy machine would do as well, but sums of other parts have other bits.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def limit_gpus(count: int) -> None:
    """Show this process the first of the GPUs that it may use; to be called before torch counts them.

    Transformers splits each batch over all GPUs that one process sees (`DataParallel`), which TRL refuses and PPO does not
    allow for. A process that a launcher started (`torchrun`, `accelerate launch`) has its GPU chosen by that.
    """
    if "LOCAL_RANK" in os.environ:
        return
    there = ",".join(str(i) for i, _ in enumerate(Path("/proc/driver/nvidia/gpus").glob("*")))
    gpus = os.environ.get("CUDA_VISIBLE_DEVICES", there).split(",")
    if len(gpus) > count:
        used = ",".join(gpu.strip() for gpu in gpus[:count])
        os.environ["CUDA_VISIBLE_DEVICES"] = used
        number = "one GPU is" if count == 1 else f"{count} GPUs are"
        say(f"{number} used, {used}; {len(gpus) - count} more can be seen and stay idle")


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
        fault = storage_fault(error)
        if fault is None or isinstance(error, UserError):
            raise
        raise fault from error


@contextlib.contextmanager
def _log(path: Path | None) -> Iterator[None]:
    """Send file descriptors 1 and 2 to the log, so that C++ output lands there too; `say` keeps the terminal.

    They stay there after a bug of ours, whose traceback then ends the log; Snakemake shows the end of a failed job's log.
    """
    if path is None:
        yield
        return
    terminal = os.dup(2)
    console.redirect(os.fdopen(terminal, "w"))
    with path.open("w") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    try:
        yield
    except UserError as error:
        with contextlib.suppress(OSError):  # the disk may be full
            if error.__cause__:
                traceback.print_exception(error.__cause__)
            if not has_launcher():
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
