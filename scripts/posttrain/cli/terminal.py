"""What a conversation looks like: in a terminal word by word and in columns, elsewhere as plain text."""

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from posttrain.data import thoughts
from posttrain.runtime.errors import printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from posttrain.inference.chat import Reply, Show

    Answer = Callable[[Show], Reply]
GAP = 2  # characters between two columns
MARGIN = 3  # lines of a terminal that columns leave free while they grow


def plainly(answers: "dict[str, Answer]") -> None:
    """Print what models say to a prompt, without what they think; the name above an answer where there are several."""
    for number, (name, answer) in enumerate(answers.items()):
        reply = answer(lambda text: None)
        if len(answers) > 1:
            print(f"{chr(10) if number else ''}{name}:")
        print(thoughts.answer(reply.text), flush=True)
        note(name, reply)


def in_lines(console: "Console", answers: "dict[str, Answer]") -> None:
    """Print a model's answer as it comes, thoughts in grey."""
    ((name, answer),) = answers.items()
    shown = 0

    def show(text: str) -> None:
        nonlocal shown
        styled = _styled(text)
        console.print(styled[shown:], end="", soft_wrap=True)
        shown = len(styled)

    reply = answer(show)
    show(reply.text)
    console.print()
    note(name, reply)


def in_columns(console: "Console", answers: "dict[str, Answer]") -> None:
    """Print the answers side by side; while they grow, the end of each."""
    from rich.live import Live

    texts, replies = dict.fromkeys(answers, ""), {}
    with Live(console=console, transient=True, auto_refresh=False) as live:
        for name, answer in answers.items():

            def show(text: str, name: str = name) -> None:
                texts[name] = text
                live.update(_columns(console, texts, console.height - MARGIN), refresh=True)

            replies[name] = answer(show)
            texts[name] = replies[name].text
    console.print(_columns(console, texts))
    for name, reply in replies.items():
        note(name, reply)


def _columns(console: "Console", texts: dict[str, str], height: int | None = None) -> Any:
    from rich.table import Table
    from rich.text import Text

    width = (console.width - GAP * (len(texts) - 1)) // len(texts)
    table = Table.grid(padding=(0, GAP, 0, 0), pad_edge=False)
    for _ in texts:
        table.add_column(width=width)
    table.add_row(*(Text(name, style="bold", overflow="fold") for name in texts))
    cells = []
    for text in texts.values():
        lines = _styled(text).wrap(console, width)
        cells.append(Text("\n").join(lines[-height:] if height else lines))
    table.add_row(*cells)
    return table


def _styled(text: str) -> "Text":
    """A model's text without what a terminal obeys, thoughts in grey and apart."""
    from rich.text import Text

    thought, answer = (_safe(part) for part in thoughts.split(text))
    return Text.assemble((thought.rstrip(), "dim"), "\n\n" if thought else "", answer)


def _safe(text: str) -> str:
    return "\n".join(map(printable, text.expandtabs(4).split("\n")))


def note(name: str, reply: "Reply") -> None:
    """Tell why an answer ended before the model ended it."""
    if reply.note:
        tell(f"{name}: {reply.note}")


def tell(text: str) -> None:
    """Tell what is no answer."""
    print(f"posttrain: {text}", file=sys.stderr, flush=True)
