"""What a stage shows at the terminal: messages, progress, durations."""

import contextlib
import os
import shutil
import sys
import time
from typing import TextIO

from posttrain.runtime import events
from posttrain.runtime.errors import printable
from posttrain.runtime.pace import Pace
from posttrain.runtime.processes import is_main

_console = sys.stderr
_progress = {"shown": 0.0, "open": False}  # when a line was last shown, and whether it may still be overwritten
_pace = Pace()


def redirect(stream: TextIO) -> None:
    """Show everything from now on on another stream, such as a copy of a terminal's."""
    global _console
    _console = stream


def say(message: str, kind: str = "note") -> None:
    """Tell the person at the terminal; the libraries' own output goes to the log. Of several processes, the first one speaks.

    Args:
        message: one or several lines.
        kind: what Snakemake's terminal (`snakemake_logger_plugin_posttrain`) does with it. A `note` is shown at once, a `summary`
            in the stage's one line, a `detail` only while the stage runs, a `table` after the last stage, `results` below that.
    """
    if not is_main():
        return
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
    if not is_main():
        return
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


class Clock:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self.start = time.monotonic()

    def seconds(self) -> float:
        """Seconds, to the hundredth."""
        return round(time.monotonic() - self.start, 2)
