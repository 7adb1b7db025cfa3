"""What Snakemake shows while it builds: one line a stage, its progress, and a user's mistake as one sentence.

Snakemake finds this package by its name and imports it at every start, also where another logger is chosen; so it imports little.
`profiles/default` chooses it; docs/terminal.md describes what it shows.
"""

import logging
import os
import sys
from dataclasses import dataclass, field

from snakemake_interface_logger_plugins.base import LogHandlerBase
from snakemake_interface_logger_plugins.settings import LogHandlerSettingsBase

from posttrain.compat.snakemake import name_missing_plugins

name_missing_plugins()


@dataclass
class LogHandlerSettings(LogHandlerSettingsBase):
    """The options of the command line that begin with --logger-posttrain."""

    json: bool = field(
        default=False, metadata={"help": "Write events to standard output as JSON, one a line, and nothing else"}
    )


class LogHandler(LogHandlerBase):
    """Shows Snakemake's records on a terminal, in a file, or as JSON."""

    writes_to_stream = True
    writes_to_file = False
    has_filter = True
    has_formatter = True
    needs_rulegraph = False

    def __post_init__(self) -> None:
        """Choose what the records become."""
        self.output = self._output()

    def _output(self):
        common = self.common_settings
        if self.settings and self.settings.json:
            from .json_lines import JsonLines

            return JsonLines(sys.stdout)
        if common.verbose or common.debug_dag:
            from posttrain.compat.snakemake import default_handler

            return default_handler(common)
        if common.dryrun:
            from .dry_run import DryRun

            return DryRun(sys.stdout, common)
        from .board import Board
        from .messages import Messages

        if sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
            from .terminal import Terminal

            return Board(Terminal(sys.stderr, common.nocolor), common, Messages(self.lock))
        from .plain import Plain

        return Board(Plain(sys.stderr), common, Messages(self.lock))

    def emit(self, record: logging.LogRecord) -> None:
        """Show a record; called with this handler's lock held, from Snakemake's listener thread."""
        try:
            self.output.emit(record)
        except Exception:
            self.handleError(record)

    def close(self) -> None:
        """Show how the command ended.

        Ctrl-C while the workflow is read ends Snakemake by an exception, of which Python would print where it was raised.
        """
        if isinstance(sys.exception(), KeyboardInterrupt):
            sys.excepthook = lambda *_: None
        with self.lock:
            output, self.output = self.output, None
        if output:
            output.close()
        super().close()
