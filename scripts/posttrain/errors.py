"""The one exception for what the user can mend, and the nearest valid name to say in it."""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """A mistake of the user's, told in one sentence: where, what is wrong, what to write instead."""

    def __str__(self) -> str:
        """The sentence; halves of surrogate pairs, which no terminal takes, are spelt out."""
        return super().__str__().encode("utf-8", "backslashreplace").decode()


def nearest(word: str, valid: Iterable[str]) -> str:
    """Say which of the `valid` names was probably meant, or list them: the end of an error's sentence."""
    names = sorted(valid)
    close = get_close_matches(word, names, n=1, cutoff=0.6)
    if close:
        return f"did you mean '{close[0]}'?"
    more = f" and {len(names) - 12} more" if len(names) > 12 else ""
    return f"valid are {', '.join(names[:12])}{more}" if names else "none is configured"
