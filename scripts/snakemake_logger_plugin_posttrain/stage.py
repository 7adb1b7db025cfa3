"""A job that runs or ran, as it is shown."""

import time
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Stage:
    """A job of this command."""

    rule: str
    name: str
    about: tuple[str, ...]
    """the names of its run, dataset or base, with which its own messages begin"""
    log: str | None
    started: float
    """seconds since the epoch"""
    state: str = "running"
    """`running`, `done`, `failed` or `stopped`"""
    ended: float | None = None
    summary: str = ""
    """what the stage says of itself in a few words, for its one line"""
    progress: str = ""
    """where it is now; only while it runs"""
    mistake: str = ""
    """what the user can mend, where that is why it failed"""
    failure: str = ""
    """what a scheduler says of it"""
    logs: list[Path] = field(default_factory=list)
    """the scheduler's, where it failed"""
    tables: list[str] = field(default_factory=list)
    """what is shown after the last stage"""

    @property
    def seconds(self) -> float:
        """How long it has run."""
        return (time.time() if self.ended is None else self.ended) - self.started
