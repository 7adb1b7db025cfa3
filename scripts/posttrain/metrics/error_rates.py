"""Word and character error rates of transcripts: the least number of edits, divided by the length of the reference.

Edits are counted by jiwer (Levenshtein 1966; Morris et al. 2004), after both texts have lost case, punctuation and blanks beyond one
between words. A rate of a corpus is the sum of all edits over the sum of all lengths; it may exceed 1.
"""

import unicodedata
from typing import Any

import numpy as np

from posttrain.runtime.errors import UserError


def wer(output: str, reference: str) -> list[float]:
    """Edits between the words of output and reference, and the reference's words: 2 counts."""
    return _counts(_jiwer().process_words, output, reference)


def cer(output: str, reference: str) -> list[float]:
    """Edits between the characters of output and reference, blanks between words included, and the reference's: 2 counts."""
    return _counts(_jiwer().process_characters, output, reference)


def corpus_error_rate(columns: np.ndarray) -> np.ndarray:
    """The error rate of the examples whose counts are (2, ..., n): (...); 0 where there is nothing to say and nothing is said."""
    edits, length = columns.sum(axis=-1)
    return edits / np.maximum(length, 1)


def normalised(text: str) -> str:
    """A text in Unicode's form NFKC without case, punctuation and double blanks; an apostrophe within a word stays.

    >>> normalised("Don't  STOP, 하나!")
    "don't stop 하나"
    """
    text = unicodedata.normalize("NFKC", text).casefold().replace("\u2019", "'")
    kept = (c if c == "'" or unicodedata.category(c)[0] not in "PS" else " " for c in text)
    return " ".join(word for part in "".join(kept).split() if (word := part.strip("'")))


def _counts(compare: Any, output: str, reference: str) -> list[float]:
    said, wanted = normalised(output), normalised(reference)
    found = compare(wanted, said)
    return [float(found.substitutions + found.deletions + found.insertions), float(_length(found))]


def _length(found: Any) -> int:
    """The reference's words or characters."""
    return found.hits + found.substitutions + found.deletions


def _jiwer() -> Any:
    try:
        import jiwer
    except ImportError:
        raise UserError(
            "missing-package",
            "evaluation.suites",
            "wer and cer need jiwer, which is not installed",
            "run: pip install posttrain[audio]",
        ) from None
    return jiwer
