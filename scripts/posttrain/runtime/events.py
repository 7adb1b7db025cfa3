"""What a stage tells the terminal of the Snakemake command that started it: one JSON object a line, in one file a command.

Snakemake's logger plugin (`snakemake_logger_plugin_posttrain`) makes the file and names it in the environment. A stage that is
run by hand, on another machine, or under another logger finds no file and writes to its own terminal.
"""

import contextlib
import json
import os
from pathlib import Path

VARIABLE = "POSTTRAIN_EVENTS"
_job: dict[str, str] = {}  # names this process's job in its events: `log`, its log file


def set_job(log: Path | None) -> None:
    """Name the job whose events this process sends: by its log file, which no other job has."""
    _job.clear()
    if log is not None:
        _job["log"] = str(log)


def send(**event: str | float | None) -> bool:
    """Append an event to the command's file.

    Returns:
        Whether there is such a file; otherwise the caller writes to the terminal itself.
    """
    if not (file := os.environ.get(VARIABLE)):
        return False
    line = json.dumps(_job | event) + "\n"
    with contextlib.suppress(OSError):
        descriptor = os.open(
            file, os.O_WRONLY | os.O_APPEND
        )  # never makes the file: its absence means that nobody reads
        try:
            os.write(descriptor, line.encode())  # one call, so that the lines of several stages do not mix
        finally:
            os.close(descriptor)
        return True
    return False
