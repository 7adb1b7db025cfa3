"""What a stage shows at the terminal: messages, progress, durations."""

import contextlib
import shutil
import sys
import time
from collections import deque
from typing import TextIO

from posttrain.runtime.errors import printable

_console = sys.stderr
_progress = {"shown": 0.0, "open": False}  # when a line was last shown, and whether it may still be overwritten


def redirect(stream: TextIO) -> None:
    """Show everything from now on on another stream, such as a copy of a terminal's."""
    global _console
    _console = stream


def say(message: str) -> None:
    """Tell the person at the terminal; the libraries' own output goes to the log."""
    end = "\n" if _progress["open"] else ""
    _progress["open"] = False
    lines = map(printable, message.split("\n"))  # a row's text may have what a terminal obeys
    _show(end + "\n".join(lines) + "\n")


def _show(text: str) -> None:
    with contextlib.suppress(OSError):  # a terminal that was closed is no reason to stop
        print(text, end="", file=_console, flush=True)


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
    _show(f"\r\x1b[K{line[:width]}" + ("\n" if last else ""))
    _progress["open"] = not last


class TimeLeft:
    """How long work still takes, judged by its latest `LATEST` reports: the machine may have become busy since it began.

    Args:
        total: number of steps, or of whatever is counted.
        done: how many were done before this process began.
    """

    LATEST = 10

    def __init__(self, total: int, done: int = 0) -> None:
        self.total = total
        self.reports = deque([(time.monotonic(), done)], maxlen=self.LATEST + 1)

    def after(self, done: int) -> float:
        """Seconds that are left after `done` of the total."""
        self.reports.append((time.monotonic(), done))
        (began, before), (now, _) = self.reports[0], self.reports[-1]
        return (now - began) / max(1, done - before) * (self.total - done)


def duration(seconds: float) -> str:
    """A time as people say it: 45 s, 12 min, 3 h 05 min."""
    minutes = round(seconds / 60)
    if minutes < 2:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02} min"


class Clock:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self.start = time.monotonic()

    def seconds(self) -> float:
        """Seconds, to the hundredth."""
        return round(time.monotonic() - self.start, 2)
