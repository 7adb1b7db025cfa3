"""The one exception for what the user can mend, the nearest valid name to say in it, and text that is safe to print."""

import re
from collections.abc import Iterable
from difflib import get_close_matches

LONGEST = 2000  # characters of a message
# Of the control characters a terminal obeys some; the others turn the direction of what follows, or end the line.
CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
PASSWORD = re.compile(r"(?<=://)[^/@\s]*@")


class UserError(Exception):
    """A mistake of the user's, told in one sentence: where, what is wrong, what to write instead; or in several lines."""

    def __str__(self) -> str:
        """The sentence, or the lines, each safe to print and with a long middle left out."""
        return "\n".join(map(_line, self.args))


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
