"""Limits for work on what somebody else wrote: so many seconds of the processor and so much memory, and it ends in a sentence."""

import contextlib
import resource
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from posttrain.runtime.errors import UserError

_memory = {"limited": False}


@contextlib.contextmanager
def limited(what: str, seconds: float, memory: int) -> Iterator[None]:
    """Let the block use so many seconds of the processor, and take so many bytes of address space more than the process has.

    Inside `memory_limited` that one's limit holds. A thread other than the main one has no limit of time.

    Raises:
        UserError: it needed more; `what` opens the sentence.
    """
    main = threading.current_thread() is threading.main_thread()
    try:
        with contextlib.nullcontext() if _memory["limited"] else memory_limited(memory):
            if main:
                signal.setitimer(signal.ITIMER_PROF, seconds)
            try:
                yield
            finally:
                if main:
                    signal.setitimer(signal.ITIMER_PROF, 0)
    except TimeoutError:
        raise UserError(
            f"{what} is not done after {seconds:g} seconds of processor time; it is broken, or made to do harm"
        ) from None
    except MemoryError:
        raise UserError(f"{what} wants more memory than it may have; it is broken, or made to do harm") from None


@contextlib.contextmanager
def memory_limited(memory: int) -> Iterator[None]:
    """Let the process take so many bytes of address space more than it has; then it gets a MemoryError.

    For many blocks that are `limited`, as this takes longer than they do.
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


def _stop(*_: Any) -> None:
    raise TimeoutError
