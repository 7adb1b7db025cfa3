"""A terminal: finished stages stay above, the running ones and their progress below."""

from typing import TextIO

from rich.console import Console
from rich.live import Live
from rich.text import Text

from . import words
from .stage import Stage

STYLES = {"running": "cyan", "done": "green", "failed": "bold red", "stopped": "yellow"}


class Terminal:
    """Draws stages with rich: one line each, and one more for the progress of a running one."""

    def __init__(self, stream: TextIO, nocolor: bool) -> None:
        self.console = Console(file=stream, no_color=nocolor or None, highlight=False, markup=False, emoji=False)
        # Rich's own refreshing thread is not used: it races with what is printed. Whoever calls holds the logger's lock.
        self.live = Live(console=self.console, auto_refresh=False, transient=True)

    def started(self, stage: Stage) -> None:
        """A running stage is drawn by `show`."""

    def ended(self, stage: Stage) -> None:
        """Leave the stage's line on the terminal."""
        self.console.print(line(stage), no_wrap=True, overflow="ellipsis", crop=True)

    def note(self, text: str, warning: bool = False) -> None:
        """Leave a message above the running stages."""
        # A terminal wraps what is not a warning by itself: it can be copied as one line.
        self.console.print(Text(text, style="yellow" if warning else ""), soft_wrap=not warning)

    def show(self, stages: list[Stage], footer: str) -> None:
        """Draw these stages below what was printed, from now on."""
        if stages and not self.live.is_started:
            self.live.start()
            self.console.show_cursor(True)  # rich hides it, and after `kill -9` it would stay hidden
        if self.live.is_started:
            self.live.update(self._drawn(stages, footer), refresh=True)

    def close(self) -> None:
        """Take away what is drawn."""
        if self.live.is_started:
            self.live.stop()

    def _drawn(self, stages: list[Stage], footer: str) -> Text:
        lines = [part for stage in stages for part in (line(stage), below(stage)) if part]
        lines += [Text(footer, style="dim")] * bool(stages)
        for part in lines:
            part.truncate(self.console.width, overflow="ellipsis")
        return Text("\n", no_wrap=True).join(lines)


def line(stage: Stage) -> Text:
    """A stage in one line: state, name, time and summary."""
    state = (f"{stage.state:<8}", STYLES[stage.state])
    return Text.assemble(state, f"{stage.name:<32} {words.clock(stage.seconds):>7}", (f"  {stage.summary}", "dim"))


def below(stage: Stage) -> Text | None:
    """The progress of a running stage."""
    return Text(f"{'':8}{stage.progress}", style="dim") if stage.progress else None
