"""Snakemake's events as JSON, for programs: `posttrain why`, benchmarks and tests read a dry run by it."""

import json
import logging
from typing import Any, TextIO

from snakemake_interface_logger_plugins.common import LogEvent

# The fields that are written of each event; docs/terminal.md describes them.
FIELDS = {
    LogEvent.RUN_INFO: ("stats",),
    LogEvent.JOB_INFO: (
        "jobid",
        "rule_name",
        "wildcards",
        "input",
        "output",
        "log",
        "reason",
        "threads",
        "shellcmd",
    ),
    LogEvent.JOB_FINISHED: ("job_id",),
    LogEvent.JOB_ERROR: ("jobid", "rule_name", "output", "log"),
    LogEvent.PROGRESS: ("done", "total"),
    LogEvent.ERROR: ("exception",),
}


class JsonLines:
    """Writes each record as a line with `event` (null for a plain message), `level`, `message` and the event's fields."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        event = getattr(record, "event", None)
        line = {"event": event, "level": record.levelname.lower(), "message": record.getMessage()}
        line |= {name: plain(getattr(record, name, None)) for name in FIELDS.get(event, ())}
        self.stream.write(json.dumps(line, default=str) + "\n")

    def close(self) -> None:
        """Write out what is buffered."""
        self.stream.flush()


def plain(value: Any) -> Any:
    """A value of Snakemake's own types as JSON has it."""
    if isinstance(value, dict):
        return dict(value)
    return value if value is None or isinstance(value, (str, int, float)) else list(value)
