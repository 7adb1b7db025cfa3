"""What happens in a command that builds: Snakemake's records and the stages' own messages, brought together."""

import logging
from collections import deque
from pathlib import Path
from typing import Any, Protocol

from snakemake_interface_logger_plugins.common import LogEvent

from posttrain.compat import snakemake

from . import words
from .messages import Messages
from .stage import Stage

LOG_LINES = 25  # of a log that are shown after a crash
INTERRUPTED = "Stopped. The same command goes on from where it was."


class View(Protocol):
    """A place where stages are shown."""

    def started(self, stage: Stage) -> None:
        """A stage has started."""

    def ended(self, stage: Stage) -> None:
        """A stage has ended, well or not."""

    def note(self, text: str, warning: bool = False) -> None:
        """A message to people."""

    def show(self, stages: list[Stage], footer: str) -> None:
        """These stages run now."""

    def close(self) -> None:
        """The command ends."""


class Board:
    """Follows a command, and shows it on a view."""

    def __init__(self, view: View, settings: Any, messages: Messages) -> None:
        """`settings` are the `OutputSettings` of Snakemake."""
        self.view = view
        quiet = {item.name for item in settings.quiet or ()}
        self.silent = "ALL" in quiet
        self.quiet = self.silent or bool(quiet & {"PROGRESS", "RULES"})
        self.commands = settings.printshellcmds
        self.running: dict[int, Stage] = {}
        self.ended: list[Stage] = []
        self.total = 0
        self.errors: list[str] = []  # Snakemake's own, shown last
        self.results: list[str] = []
        self.said: set[str] = set()
        self.interrupted = False
        self.began: float | None = None
        self.messages = messages
        messages.start(self.receive, self._show)

    def emit(self, record: logging.LogRecord) -> None:
        """Take one of Snakemake's records."""
        self.messages.read()  # a stage's last words come before its end
        event = getattr(record, "event", None)
        if event == LogEvent.RUN_INFO:
            self.total = record.stats["total"] - sum(record.stats.get(rule, 0) for rule in words.MINOR)
        elif event == LogEvent.JOB_INFO:
            self._start(record)
        elif event == LogEvent.SHELLCMD and self.commands and not self.quiet:
            self.view.note(record.getMessage())
        elif event == LogEvent.JOB_FINISHED:
            self._end(record.job_id, "done", record.created)
        elif event == LogEvent.JOB_ERROR:
            self._of_scheduler(record)
            self._fail([record.jobid], record.created)
        elif event == LogEvent.GROUP_ERROR:
            self._fail([job["jobid"] for job in record.job_error_info], record.created)
        elif event == LogEvent.ERROR:
            self._error(record)
        elif event is None:
            self._message(record)
        self._show()

    def receive(self, event: dict[str, Any]) -> None:
        """Take what a stage has sent."""
        stage = next((stage for stage in self.running.values() if stage.log and stage.log == event.get("log")), None)
        kind, text = event["kind"], event["text"]
        if stage and kind not in ("note", "error"):
            text = text.removeprefix(f"{next((name for name in stage.about if text.startswith(f'{name}: ')), '')}: ")
        if kind == "results":
            self.results.append(text)
        elif kind == "note" or stage is None:
            self._note(text, warning="WARNING" in text)
        elif kind == "error":
            stage.mistake = text
        elif kind == "table":
            stage.tables.append(text)
        elif kind == "summary":
            stage.summary = text
        elif "\n" not in text:  # what a stage has measured is shown by hand only
            left = "" if event.get("left") is None else f"  {words.clock(event['left'])} left"
            stage.progress = text + left
            stage.summary = text if event.get("last") else stage.summary
        self._show()

    def close(self) -> None:
        """Say how the command ended: the results, or what went wrong, last."""
        self.messages.close()
        self.view.close()
        done = [stage for stage in self.ended if stage.state == "done"]
        names = {stage.name for stage in done}  # of what failed first and was done when it was tried again
        failed = [stage for stage in self.ended if stage.state == "failed" and stage.name not in names]
        if self.ended and not self.quiet:
            time = words.clock(max(stage.ended for stage in self.ended) - self.began)
            self.view.note(
                f"{words.count(len(done), 'stage')} done{f', {len(failed)} failed' if failed else ''} in {time}."
            )
        if not self.silent:
            for table in [*(table for stage in done for table in stage.tables), *self.results]:
                self.view.note(f"\n{table}")
        for text in dict.fromkeys(self.errors):
            self.view.note(text)
        if self.interrupted:
            self.view.note(INTERRUPTED)
            return
        for stage in failed:
            self.view.note(f"{stage.name} failed{f'; its log is {stage.log}' if stage.log else ''}")
        for sentence in dict.fromkeys(stage.mistake for stage in failed if stage.mistake):
            self.view.note(f"posttrain: {sentence}")

    def _start(self, record: logging.LogRecord) -> None:
        name = words.name(record.rule_name, record.wildcards)
        about = tuple(record.wildcards.values())
        stage = Stage(record.rule_name, name, about, next(iter(record.log), None), record.created)
        self.running[record.jobid] = stage
        self.began = record.created if self.began is None else self.began
        if record.rule_name not in words.MINOR and not self.quiet:
            self.view.started(stage)

    def _end(self, job: int, state: str, now: float) -> None:
        stage = self.running.pop(job, None)
        if stage is None:
            return
        if state == "stopped":
            stage.summary = stage.progress
        stage.state, stage.ended, stage.progress = state, now, ""
        if stage.rule in words.MINOR and state != "failed":
            return
        self.ended.append(stage)
        if not self.quiet or state == "failed":
            self.view.ended(stage)
        if state == "failed" and not stage.mistake:
            self._crash(stage)

    def _of_scheduler(self, record: logging.LogRecord) -> None:
        """Keep what a scheduler says of a failed job, and the log of that: the stage may not have come to write its own."""
        stage = self.running.get(record.jobid)
        if stage and getattr(record, "rule_msg", None):
            stage.failure = record.rule_msg.strip()
            stage.logs = [Path(log) for log in record.log if log != stage.log]

    def _fail(self, jobs: list[int], now: float) -> None:
        for job in jobs:
            self._end(job, "stopped" if self.interrupted else "failed", now)

    def _crash(self, stage: Stage) -> None:
        """Show how the log of a stage ends that failed without a sentence."""
        if stage.failure:
            self.view.note(stage.failure, warning=True)
        own = [Path(stage.log)] if stage.log else []
        log = next((log for log in (*own, *stage.logs) if log.exists() and log.stat().st_size), None)
        if log:
            with log.open(errors="replace") as file:
                lines = deque(file, LOG_LINES)
            self.view.note(f"The end of {log}:\n" + "".join(f"    {line}" for line in lines).rstrip())

    def _error(self, record: logging.LogRecord) -> None:
        text = record.getMessage().strip()
        if record.exception == "RuleException" and "CalledProcessError" in text:
            return  # the job's own event follows
        if not text.startswith(snakemake.REPEATED):
            self.errors.append(text)

    def _message(self, record: logging.LogRecord) -> None:
        text = (record.getMessage() or "").strip()
        if text.startswith(snakemake.INTERRUPTED):
            self.interrupted = True
            if text.startswith(snakemake.GRACEFUL):
                self.view.note("Stopping when the running stages are done.")
        elif not snakemake.is_routine(text) and (record.levelno >= logging.WARNING or not self.quiet):
            self._note(text, warning=record.levelno >= logging.WARNING)

    def _note(self, text: str, warning: bool) -> None:
        """Show a message; a warning that another run has given already is not shown again."""
        said = text.partition(": ")[2] or text  # without the run that says it
        if self.silent or (self.quiet and not warning) or (warning and said in self.said):
            return
        self.said.add(said)
        self.view.note(text, warning)

    def _show(self) -> None:
        shown = [] if self.quiet else [stage for stage in self.running.values() if stage.rule not in words.MINOR]
        done = sum(stage.state == "done" for stage in self.ended)
        self.view.show(shown, f"{done} of {words.count(self.total, 'stage')} done")
