"""What a disk or a mount did, told in one sentence."""

import errno
import os

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
