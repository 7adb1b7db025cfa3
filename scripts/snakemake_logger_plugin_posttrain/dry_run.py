"""What a dry run shows: one line a stage, with the reason in a few words, and a total."""

import logging
import sys
from typing import Any, TextIO

from snakemake_interface_logger_plugins.common import LogEvent

from posttrain.compat import snakemake

from . import words


class DryRun:
    """Writes the stages of a dry run as they are planned."""

    def __init__(self, stream: TextIO, settings: Any) -> None:
        """`settings` are the `OutputSettings` of Snakemake."""
        self.stream = stream
        self.quiet = bool(settings.quiet) and {item.name for item in settings.quiet} != {"HOST"}
        self.commands = settings.printshellcmds
        self.stages: list[tuple[str, str]] = []
        self.jobs: dict[str, int] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a job; show a message at once."""
        event = getattr(record, "event", None)
        if event == LogEvent.RUN_INFO:
            self.jobs = record.stats
        elif event == LogEvent.JOB_INFO:
            self._job(record)
        elif event == LogEvent.ERROR or (event is None and not record.getMessage().startswith(snakemake.ROUTINE)):
            print(record.getMessage().strip(), file=sys.stderr if record.levelno >= logging.WARNING else self.stream)

    def close(self) -> None:
        """Write the stages and how many they are."""
        width = max((len(name) for name, _ in self.stages), default=0)
        for name, rest in self.stages:
            self.stream.write(f"{name:<{width}}  {rest}\n")
        if total := self.jobs.get("total"):
            minor = sum(self.jobs.get(rule, 0) for rule in words.MINOR)
            self.stream.write(
                f"{words.count(total - minor, 'stage')} would run ({words.count(total, 'job')} in all).\n"
            )
        self.stream.flush()

    def _job(self, record: logging.LogRecord) -> None:
        if record.rule_name in words.MINOR or self.quiet:
            return
        command = f"\n{record.shellcmd}" if self.commands and record.shellcmd else ""
        name = words.name(record.rule_name, record.wildcards)
        self.stages.append((name, words.briefly(record.reason, record.output) + command))
