"""Several processes of one job: who this process is, how they are started, and how they agree.

A launcher forks one process for each rank and waits. The ranks' signals come from it, in process groups of their own, so that Ctrl-C
reaches each rank once. If a rank fails, the launcher kills the others at once: they would wait for it for ever. If the launcher is
killed, the kernel kills the ranks. `torchrun` (torch 2.13) kills the ranks 30 seconds after a signal, while a checkpoint may be being
written, leaves them alone when it is killed itself, and starts Python anew for each.
"""

import ctypes
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn

from posttrain.runtime.errors import UserError

VARIABLE = "POSTTRAIN_HARDWARE"  # the configuration's table `hardware`, as JSON
REPORT = "POSTTRAIN_RANK_REPORT"  # descriptor of the file in which a rank tells its launcher why it ends
RESTART = "POSTTRAIN_RESTART"  # why the launcher starts all ranks again
# Seconds that the ranks have, after the first one has ended for a signal; its checkpoint is complete by then.
GRACE = 60.0
# Days that a process waits for another. A process that has died ends all by the launcher, at once; one that is alive may be writing a
# large checkpoint, or measuring, and is waited for however long that takes. By default torch would give up after 10 or 30 minutes.
TIMEOUT = 7
PR_SET_PDEATHSIG = 1
# What each process holds only its share of, by strategy.
SHARES = {
    "single": (),
    "ddp": (),
    "zero1": ("optimiser",),
    "zero2": ("optimiser", "gradients"),
    "zero3": ("optimiser", "gradients", "weights"),
    "fsdp": ("optimiser", "gradients", "weights"),
}
# Strategies for a model that one GPU may not hold.
SHARDED = tuple(name for name, parts in SHARES.items() if "weights" in parts)


def hardware() -> dict[str, Any]:
    """The configuration's table `hardware`; one process where a script is run by hand without it."""
    table = {"processes": 1, "strategy": None, "offload": False}
    table |= json.loads(os.environ.get(VARIABLE, "{}"))
    return table | {"strategy": strategy(table["strategy"], table["processes"])}


def strategy(name: str | None, count: int) -> str:
    """The strategy that is used where the configuration names `name`, or none."""
    return name or ("single" if count == 1 else "ddp")


def planned(replicas: bool) -> tuple[int, int]:
    """The number of processes of a job, and of the GPUs that each may use.

    Args:
        replicas: whether each process has to hold all of the model; where one GPU may not, one process uses all GPUs.
    """
    table = hardware()
    several = table["processes"]
    return (1, several) if replicas and table["strategy"] in SHARDED else (several, 1)


def uses_all_gpus() -> bool:
    """Whether this process works alone on a model that one GPU may not hold."""
    return count() == 1 and hardware()["strategy"] in SHARDED


# ---- who this process is


def rank() -> int:
    """This process's number among those of the job, from 0."""
    return int(os.environ.get("RANK", 0))


def count() -> int:
    """The number of the job's processes."""
    return int(os.environ.get("WORLD_SIZE", 1))


def is_main() -> bool:
    """Whether this process writes and speaks for all of the job."""
    return rank() == 0


# ---- what they agree on; every process has to call these in the same order


def join() -> None:
    """Join the other processes, where there are any and this one has not."""
    if count() == 1:
        return
    import torch
    import torch.distributed as dist

    if dist.is_initialized():
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    # Objects and numbers of the CPU go by gloo, so that they do not wait for the GPU.
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=timedelta(days=TIMEOUT)
    )


def gathered(value: Any) -> list[Any]:
    """The value of each process, in the order of their ranks; any object that can be pickled."""
    if count() == 1:
        return [value]
    import torch.distributed as dist

    values = [None] * count()
    join()
    dist.all_gather_object(values, value)
    return values


def largest(number: float) -> float:
    """The largest of the processes' numbers."""
    if count() == 1:
        return number
    import torch
    import torch.distributed as dist

    join()
    found = torch.tensor(number, dtype=torch.float64)
    dist.all_reduce(found, dist.ReduceOp.MAX)
    return found.item()


def by_main(function: Callable[[], Any]) -> Any:
    """What a function returns in the first process, which alone calls it; in every process."""
    return gathered(function() if is_main() else None)[0]


def barrier() -> None:
    """Wait until every process is here."""
    largest(0)


# ---- starting them


def most() -> int:
    """How many processes this machine can run: one for each GPU that can be seen, else one for each core."""
    return len(gpus()) or len(os.sched_getaffinity(0))


def gpus() -> list[str]:
    """The GPUs that this process may use, by the names that CUDA_VISIBLE_DEVICES has; none where none can be seen."""
    there = [str(i) for i, _ in enumerate(Path("/proc/driver/nvidia/gpus").glob("*"))]
    names = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(there)).split(",")
    return [name.strip() for name in names if name.strip() not in ("", "-1")]


def check_devices(wanted: int) -> None:
    """Refuse more processes than there are devices.

    Raises:
        UserError: naming both numbers.
    """
    if wanted > most():
        kind = "GPU" if gpus() else "core"
        raise UserError(
            "too-many-processes",
            "hardware.processes",
            f"{wanted} processes need {wanted} {kind}s, and this machine has {most()}",
            f"write processes: {most()}",
        )


def start(wanted: int, signals: tuple[int, ...]) -> bool:
    """Make this process the launcher of `wanted` ranks, unless a launcher has started it or it is alone.

    Args:
        signals: those that are passed on.

    Returns:
        Whether this process does the job's work: a rank, or the only process. In the launcher, False once all ranks have ended well.

    Raises:
        UserError: of a rank; or there are fewer devices.
        SystemExit: with a rank's exit status.
    """
    if wanted == 1 or "RANK" in os.environ:
        return True
    check_devices(wanted)
    while True:
        reports = [os.memfd_create(f"rank-{i}", 0) for i in range(wanted)]
        signal.pthread_sigmask(signal.SIG_BLOCK, signals)  # until they are passed on
        ranks = _fork(wanted, reports)
        if ranks is None:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
            return True
        status = _wait(ranks, signals)
        found = [report for report in map(_read, reports) if report]
        for report in reports:
            os.close(report)
        if status == 0:
            return False
        if again := [reason["again"] for reason in found if "again" in reason]:
            os.environ[RESTART] = again[0]
            continue
        if found:
            code, place, problem, hint = found[0]["mistake"]
            raise UserError(code, place, problem, hint)
        _end(status)


def _fork(wanted: int, reports: list[int]) -> list[int] | None:
    """The process ids of the ranks; None in a rank."""
    launcher, port = os.getpid(), free_port()
    threads = int(os.environ.get("OMP_NUM_THREADS") or len(os.sched_getaffinity(0)))  # of the job, as Snakemake sets it
    sys.stdout.flush()
    sys.stderr.flush()
    ranks = []
    for i in range(wanted):
        if pid := os.fork():
            ranks.append(pid)
            continue
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != launcher:
            os._exit(1)
        os.setpgid(0, 0)
        signal.signal(signal.SIGTTOU, signal.SIG_IGN)  # a process group in the background may write to the terminal
        os.environ |= {
            **{"RANK": str(i), "LOCAL_RANK": str(i), "WORLD_SIZE": str(wanted), "LOCAL_WORLD_SIZE": str(wanted)},
            **{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), REPORT: str(reports[i])},
            "OMP_NUM_THREADS": str(max(1, threads // wanted)),
        }
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # a machine's own name may have no address
        if "torch" in sys.modules:  # a fork of the server, which has imported it
            sys.modules["torch"].set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
        return None
    return ranks


def free_port() -> int:
    """A port of the loopback that nobody listens on now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def _wait(ranks: list[int], signals: tuple[int, ...]) -> int:
    """Wait for all ranks; returns the status of the first that failed, negative for the signal that ended it, or 0.

    When one has failed, the others are killed. After a signal each ends by itself, with the same status.
    """
    left, first = set(ranks), 0

    def send(number: int) -> None:
        for pid in left:
            os.kill(pid, number)  # nobody else waits for it, so the id is still its own

    def pause(*_: Any) -> None:
        send(signal.SIGSTOP)
        os.kill(os.getpid(), signal.SIGSTOP)
        send(signal.SIGCONT)  # this process goes on

    for number in signals:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, lambda number, _: send(number))
    before = signal.signal(signal.SIGTSTP, pause)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
    end = None
    while left:
        pid, status = os.waitpid(-1, os.WNOHANG if end else 0)
        if pid in left:
            left.remove(pid)
            code = os.waitstatus_to_exitcode(status)
            first = first or code
            if code - 128 in signals:
                end = end or time.monotonic() + GRACE
            elif code:
                send(signal.SIGKILL)
        elif end:
            if time.monotonic() > end:
                send(signal.SIGKILL)
            time.sleep(0.05)
    signal.signal(signal.SIGTSTP, before)
    return first


def _end(status: int) -> NoReturn:
    """End as a rank did."""
    if status > 0:
        sys.exit(status)
    if -status != signal.SIGKILL:
        signal.signal(-status, signal.SIG_DFL)
    os.kill(os.getpid(), -status)


def _read(report: int) -> dict[str, Any]:
    return json.loads(os.pread(report, os.fstat(report).st_size, 0) or "{}")


# ---- how a rank ends


def has_launcher() -> bool:
    """Whether this process is a rank of a launcher of ours, which says what a user has done wrong."""
    return REPORT in os.environ


def report(error: UserError) -> None:
    """Tell the launcher which mistake of the user's ends this rank."""
    _report({"mistake": [error.code, error.place, error.problem.split("\n"), error.hint]})


def start_again(reason: str) -> NoReturn:
    """End this rank so that the launcher starts all of them again, where `reason` is `restarted_for()`."""
    _report({"again": reason})
    sys.exit(1)


def _report(reason: dict[str, Any]) -> None:
    os.pwrite(int(os.environ[REPORT]), json.dumps(reason).encode(), 0)


def restarted_for() -> str | None:
    """Why the launcher has started the ranks again; told once."""
    return os.environ.pop(RESTART, None)


def leave() -> None:
    """End the work with the other processes, when all of it is done."""
    dist = getattr(sys.modules.get("torch"), "distributed", None)
    if dist and dist.is_initialized():
        barrier()
        dist.destroy_process_group()
