"""A file or a pipe, as in continuous integration: one line when a stage starts, one when it ends."""

from typing import TextIO

from . import words
from .stage import Stage


class Plain:
    """Writes lines; nothing changes once it is written."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def started(self, stage: Stage) -> None:
        """Say that a stage runs."""
        self._write(f"{stage.name}: started")

    def ended(self, stage: Stage) -> None:
        """Say how a stage ended, and what it has to tell."""
        summary = f": {stage.summary}" if stage.summary else ""
        self._write(f"{stage.name}: {stage.state} after {words.clock(stage.seconds)}{summary}")

    def note(self, text: str, warning: bool = False) -> None:
        """Write a message."""
        self._write(text)

    def show(self, stages: list[Stage], footer: str) -> None:
        """Progress is only for a terminal."""

    def close(self) -> None:
        """Nothing is held back."""

    def _write(self, text: str) -> None:
        print(text, file=self.stream, flush=True)
