"""CPU time and memory limits for work on untrusted files, such as a chat template or the header of a model file."""

import contextlib
import resource
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from posttrain.runtime.errors import UserError

HINT = "the file may be corrupt or malicious"
_memory = {"limited": False}


@contextlib.contextmanager
def limited(what: str, seconds: float, memory: int) -> Iterator[None]:
    """Limit the CPU time and the additional memory of a block.

    Inside `memory_limited` that limit applies instead. Threads other than the main thread have no time limit.

    Args:
        what: what is read or run, the place of the error.
        seconds: CPU seconds.
        memory: bytes of address space beyond those that the process has.

    Raises:
        UserError: a limit was exceeded.
    """
    main = threading.current_thread() is threading.main_thread()
    try:
        with contextlib.nullcontext() if _memory["limited"] else memory_limited(memory):
            if main:  # the signal comes again each second, since Python ignores an exception in a destructor
                signal.setitimer(signal.ITIMER_PROF, seconds, 1)
            try:
                yield
            finally:
                if main:
                    signal.setitimer(signal.ITIMER_PROF, 0)
    except TimeoutError:
        raise UserError("resource-limit", what, f"exceeded the {seconds:g} s CPU limit", HINT) from None
    except MemoryError:
        raise UserError("resource-limit", what, "exceeded the memory limit", HINT) from None


@contextlib.contextmanager
def memory_limited(memory: int) -> Iterator[None]:
    """Limit the process to `memory` bytes of address space beyond those it has; more raises a MemoryError.

    Use it around many `limited` blocks: setting the limit takes longer than a short block.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGPROF, _stop)
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    has = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    most = has + memory if hard == resource.RLIM_INFINITY else min(has + memory, hard)
    resource.setrlimit(resource.RLIMIT_AS, (most, hard))
    _memory["limited"] = True
    try:
        yield
    finally:
        _memory["limited"] = False
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def never_limit_memory() -> None:
    """From here on, leave this process's memory unlimited: a limit would meet its other threads, which compute."""
    _memory["limited"] = True


def _stop(*_: Any) -> None:
    raise TimeoutError
