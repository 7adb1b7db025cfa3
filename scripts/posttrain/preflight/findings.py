"""What a check finds, and how it is told."""

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from posttrain.preflight.run_context import RunContext
    from posttrain.preflight.token_scan import Side

FEW = 3  # rows that may have a fault of their own without being the dataset's


class Finding(NamedTuple):
    """What a check found."""

    severity: str
    """`error` stops the run, `warning` is printed, `skipped`: the check does not apply"""
    message: str
    """what is wrong, and what to write instead"""
    example: str = ""
    """a row of it: its place and its text, with what is trained between ⟦ and ⟧"""


def rows_finding(run: "RunContext", wrong: Callable[["Side"], Any], what: str, always: bool = False) -> Finding | None:
    """A finding about rows of which one side or another is wrong, see `finding`."""
    return finding(run, any_side(run, wrong), what, always)


def any_side(run: "RunContext", wrong: Callable[["Side"], Any]) -> Any:
    """(rows,) whether one side or another is wrong."""
    import numpy as np

    nowhere = np.zeros(len(run.tokens.digest), bool)  # of texts with a class no token is trained
    return functools.reduce(lambda a, b: a | b, map(wrong, run.tokens.sides.values()), nowhere)


def finding(run: "RunContext", wrong: Any, what: str, always: bool = False) -> Finding | None:
    """A finding about rows; an error where more than FEW are wrong, or all, or `always`; else a warning.

    Args:
        wrong: (rows,) bool.
        what: is wrong with them, and what to do.
    """
    count, rows = int(wrong.sum()), len(wrong)
    if not count:
        return None
    error = always or count > FEW or count == rows
    text = f"{share(count, rows)} of the rows have {what}"
    return Finding("error" if error else "warning", text, run.example(int(wrong.argmax())))


def share(count: int, of: int) -> str:
    """`3 (0.3 %)`, to be followed by what it is a share of."""
    return f"{count:,} ({100 * count / max(1, of):.3g} %)"


def stop_names(run: "RunContext") -> str:
    """The stop tokens, in words."""
    return " or ".join(run.tokenizer.convert_ids_to_tokens(run.stops))
