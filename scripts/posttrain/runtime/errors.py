"""The one exception for what the user can mend, the nearest valid name to say in it, and text that is safe to print."""

import re
from collections.abc import Iterable
from difflib import get_close_matches

LONGEST = 2000  # characters of a message
# Of the control characters a terminal obeys some; the others turn the direction of what follows, or end the line.
CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
PASSWORD = re.compile(r"(?<=://)[^/@\s]*@")


class UserError(Exception):
    """A mistake of the user's, told in one sentence: where, what is wrong, what to write instead.

    Args:
        code: stable name of the kind of mistake, such as `unknown-key`; docs/errors.md has a section on each.
        place: the file, line, key or run where it is, such as `runs.dpo.beta`; empty where there is none.
        problem: what is wrong; a list of lines if it needs several. Line breaks in a line are spelt out.
        hint: what to write or do instead; empty where nothing can be said.
    """

    def __init__(self, code: str, place: str = "", problem: str | list[str] = "", hint: str = "", *more: str) -> None:
        if " " in code:  # TODO: a whole sentence, until every raise has a code
            code, place, problem, hint = "", "", [part for part in (code, place, problem, hint, *more) if part], ""
        lines = [problem] if isinstance(problem, str) else problem
        place, problem, hint = printable(place), "\n".join(map(printable, lines)), printable(hint)
        super().__init__(code, place, problem, hint)
        self.code, self.place, self.problem, self.hint = code, place, problem, hint

    def __str__(self) -> str:
        """The sentence, safe to print, with a long middle left out."""
        where = f"{self.place}: " if self.place else ""
        instead = f"; {self.hint}" if self.hint else ""
        return "\n".join(map(_line, f"{where}{self.problem}{instead}".split("\n")))


def _line(text: str) -> str:
    text = printable(PASSWORD.sub("***@", str(text)))
    return text if len(text) <= LONGEST else f"{text[: LONGEST // 2]} ... {text[-LONGEST // 2 :]}"


def printable(text: str) -> str:
    """Text with its control characters spelt out, so that no terminal obeys them and it stays one line."""
    return CONTROLS.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def nearest(word: str, valid: Iterable[str]) -> str:
    """Say which of the `valid` names was probably meant, or list them, a list in its order: the end of an error's sentence."""
    names = list(valid) if isinstance(valid, list) else sorted(valid)
    lower = {name.lower(): name for name in reversed(names)}
    close = get_close_matches(word[:100].lower(), lower, n=1, cutoff=0.6)
    if close:
        return f"did you mean '{lower[close[0]]}'?"
    more = f" and {len(names) - 12} more" if len(names) > 12 else ""
    return f"valid are {', '.join(names[:12])}{more}" if names else "none is configured"
