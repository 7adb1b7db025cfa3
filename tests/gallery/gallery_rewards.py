"""Rewards of the gallery's runs that learn from their own completions, and a limit of memory."""

import resource
import time
from pathlib import Path


def right_words(answer: str, reference: str) -> float:
    """Share of the reference's words that stand in their place; a longer answer gets less."""
    given, wanted = answer.split(), reference.split()
    right = sum(a == b for a, b in zip(given, wanted, strict=False))
    return right / max(len(given), len(wanted))


def length(answer: str, reference: str) -> float:
    """Pays for every character, whatever it says."""
    return len(answer) / 10


def vowels(answer: str, reference: str) -> float:
    """Pays for a letter."""
    return answer.count("e") + answer.count("a")


def constant(answer: str, reference: str) -> float:
    """Pays everything alike, so that nothing can be learnt of it."""
    return 1.0


def slow(answer: str, reference: str) -> float:
    """As `right_words`, from a program that takes its time."""
    time.sleep(0.05)
    return right_words(answer, reference)


def in_little_memory(answer: str, reference: str) -> float:
    """Counts right words, and leaves the process no more memory than it has and 48 MiB."""
    leave(48)
    return right_words(answer, reference)


def in_no_memory(answer: str, reference: str) -> float:
    """Counts right words, and leaves the process no more memory than it has and 2 MiB."""
    leave(2)
    return right_words(answer, reference)


def leave(mebibytes: int) -> None:
    """Limit this process's address space, once."""
    if resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY:
        has = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (has + mebibytes * 2**20, resource.RLIM_INFINITY))
