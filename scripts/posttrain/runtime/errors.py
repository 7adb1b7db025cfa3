"""The exception for mistakes that the user can fix, suggestions of valid names, and text that is safe to print."""

import re
from collections.abc import Iterable
from difflib import get_close_matches

LONGEST = 2000  # characters of a message
# Characters that control a terminal, change the direction of text or end the line.
CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
PASSWORD = re.compile(r"(?<=://)[^/@\s]*@")


class UserError(Exception):
    """A mistake that the user can fix, reported in one sentence: where it is, what is wrong, what to write instead.

    Args:
        code: stable identifier of the kind of mistake, such as `unknown-key`; docs/errors.md has a section on each.
        place: the file, line, key or run, such as `runs.dpo.beta`; empty if there is none.
        problem: what is wrong; a list if it takes several lines. Line breaks within a line are escaped.
        hint: what to write or do instead; empty if there is no suggestion.
    """

    def __init__(self, code: str, place: str, problem: str | list[str], hint: str = "") -> None:
        lines = [problem] if isinstance(problem, str) else problem
        place, problem, hint = printable(place), "\n".join(map(printable, lines)), printable(hint)
        super().__init__(code, place, problem, hint)
        self.code, self.place, self.problem, self.hint = code, place, problem, hint

    def __str__(self) -> str:
        """The message, safe to print; long lines are shortened in the middle."""
        where = f"{self.place}: " if self.place else ""
        instead = f"; {self.hint}" if self.hint else ""
        return "\n".join(map(_line, f"{where}{self.problem}{instead}".split("\n")))


def _line(text: str) -> str:
    text = printable(PASSWORD.sub("***@", str(text)))
    return text if len(text) <= LONGEST else f"{text[: LONGEST // 2]} ... {text[-LONGEST // 2 :]}"


def printable(text: str) -> str:
    """The text on one line, with control characters escaped so that a terminal does not interpret them."""
    return CONTROLS.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def nearest(word: str, valid: Iterable[str]) -> str:
    """The hint of an error: the `valid` name closest to `word`, or else the valid names; a list keeps its order."""
    names = list(valid) if isinstance(valid, list) else sorted(valid)
    lower = {name.lower(): name for name in reversed(names)}
    close = get_close_matches(word[:100].lower(), lower, n=1, cutoff=0.6)
    if close:
        return f"did you mean '{lower[close[0]]}'?"
    more = f" and {len(names) - 12} more" if len(names) > 12 else ""
    return f"valid are {', '.join(names[:12])}{more}" if names else "none is configured"
