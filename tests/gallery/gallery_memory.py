"""Metrics of the gallery's runs that run out of memory: measuring them takes all memory that the process may have, but for a rest."""

import resource
from pathlib import Path

MIB = 2**20
_taken: list[bytearray] = []


def little_is_left(answer: str, reference: str) -> float:
    """Leaves enough for a part of the batch."""
    take_all_but(40)
    return 0.0


def nothing_is_left(answer: str, reference: str) -> float:
    """Leaves too little for a single row."""
    take_all_but(1)
    return 0.0


def take_all_but(mebibytes: int) -> None:
    """Limit this process's address space to what it has, and take what is free within it; once."""
    if _taken:
        return
    has = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (has + 64 * MIB, resource.RLIM_INFINITY))
    try:
        while True:
            _taken.append(bytearray(MIB))
    except MemoryError:
        del _taken[-mebibytes:]
