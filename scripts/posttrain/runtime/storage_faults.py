"""Storage faults (full disk, quota, read-only or vanished mount), told in one sentence."""

import errno
import os

from posttrain.runtime.errors import UserError

# errno: what is wrong, what to do about it.
FAULTS = {
    errno.ENOSPC: ("the disk is full", "free some space"),
    errno.EDQUOT: ("your quota on this disk is used up", "free some space or ask for more"),
    errno.EROFS: ("the file system is read-only", "mount it for writing"),
    errno.EACCES: ("permission denied", "give this user access"),
    errno.ENOTDIR: ("a parent of this path is a file", "move that file away"),
    errno.EIO: ("the disk or its mount does not respond", "check the disk and the mount"),
    errno.ESTALE: ("the mount has disappeared", "mount it again"),
    errno.ENOTCONN: ("the mount has disappeared", "mount it again"),
}


def storage_fault(error: BaseException) -> UserError | None:
    """The error for the user if an exception comes from a storage fault, otherwise None.

    Libraries written in Rust or C++ and SQLite pass on only the operating system's message, and torch not even that.
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


def _fault(number: int, place: str) -> UserError:
    what, cure = FAULTS[number]
    if number == errno.ENOSPC:
        cure += " (finished runs do not need their checkpoints)"
    return UserError("storage-fault", place, what, f"{cure}, then run the same command again: it resumes")
