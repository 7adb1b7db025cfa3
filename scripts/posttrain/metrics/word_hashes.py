"""A row's words, as duplicates and overlaps are found by them: no case, no punctuation; and as numbers, for many rows at once."""

import re
import sys
from functools import cache
from typing import Any

import numpy as np

# Scripts written without spaces give a word a character; every other run of letters and digits is a word.
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_ALONE = re.compile(f"[{_UNSPACED}]")
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+")
_FOREIGN = re.compile(r"[^\x00-\x7f]+")
_BLANKED = bytes(code if code > 127 or chr(code).isalnum() or chr(code) == "_" else 32 for code in range(256))

UNSEEN = 255


def words(text: str) -> list[str]:
    """The words of a text in their order, casefolded."""
    text = text.casefold()
    raw = text.encode("utf-8", "surrogatepass")
    if len(raw) - len(text) > len(text) // 50:
        return _WORD.findall(text)
    if len(raw) > len(text):  # a curly quote here and there; from here on it is several times as fast as the expression
        raw = _FOREIGN.sub(_blanked, text).encode("utf-8", "surrogatepass")
    return raw.translate(_BLANKED).decode("utf-8", "surrogatepass").split()


def _blanked(match: re.Match) -> str:
    """Characters beyond ASCII, with blanks for signs and around what is a word of its own."""
    return "".join(
        f" {character} " if _ALONE.match(character) else character if character.isalnum() else " "
        for character in match[0]
    )


# ---- words as numbers


class Runs:
    """The hash of any run of numbers from prefix sums: sum(x[i] * F^(i - start)) modulo 2^64."""

    def __init__(self, numbers: np.ndarray) -> None:
        """Sum up (n,) numbers."""
        factors, self.inverse = _powers(len(numbers).bit_length())
        self.sums = np.zeros(len(numbers) + 1, np.uint64)
        np.cumsum(numbers * factors[: len(numbers)], out=self.sums[1:])

    def between(self, start: np.ndarray, end: np.ndarray) -> np.ndarray:
        """Hashes of the runs from each start up to its end, (runs)."""
        return (self.sums[end] - self.sums[start]) * self.inverse[start]

    def each(self, length: int, ends: np.ndarray) -> np.ndarray:
        """Hashes of the `length` numbers from each on, (numbers); 0 where they go beyond its end in `ends`."""
        hashes = np.zeros(len(ends), np.uint64)
        last = max(0, len(ends) - length + 1)
        hashes[:last] = (self.sums[length:] - self.sums[:-length])[:last] * self.inverse[:last]
        hashes[np.arange(length, len(ends) + length) > ends] = 0
        return hashes


@cache
def _powers(bits: int) -> tuple[np.ndarray, np.ndarray]:
    """The first 2^bits powers of an odd number and of its inverse modulo 2^64."""
    factor = 0x9E3779B97F4A7C15
    both = np.array([[factor], [pow(factor, -1, 2**64)]], np.uint64).repeat(1 << bits, axis=1)
    both[:, 0] = 1
    return tuple(np.multiply.accumulate(both, axis=1))


@cache
def _kinds() -> np.ndarray:
    """By code point: 0 between words, 1 in a word, 2 a word of its own, UNSEEN where `words` has not been asked."""
    return np.full(sys.maxunicode + 1, UNSEEN, np.uint8)


def _kinds_of(characters: np.ndarray) -> np.ndarray:
    kinds = _kinds()
    found = kinds[characters]
    unseen = np.unique(characters[found == UNSEEN])
    if not len(unseen):
        return found
    kinds[unseen] = [len(words(chr(code) * 2)) for code in unseen.tolist()]
    return kinds[characters]


def word_hashes(texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Hashes of the texts' words end to end, (words), and where each text's begin, (texts + 1).

    They are the words of `words`, found in all texts at once, several times as fast as one by one.
    """
    parts = [text.casefold() + "\n" for text in texts]
    characters = np.frombuffer("".join(parts).encode("utf-32-le"), np.uint32)
    kinds = _kinds_of(characters)
    inside, alone = kinds == 1, kinds == 2
    start = np.flatnonzero(alone | (inside & ~np.append(False, inside[:-1])))
    end = np.flatnonzero(alone | (inside & ~np.append(inside[1:], False))) + 1
    hashes = Runs(characters.astype(np.uint64)).between(start, end)
    for shift in (32, 29):  # mixed, as sums of sums would not tell `ab c` from `ac b`
        hashes = (hashes ^ (hashes >> np.uint64(shift))) * np.uint64(0xBF58476D1CE4E5B9)
    return hashes, np.searchsorted(start, bounds([len(part) for part in parts]))


def sums(values: np.ndarray, bounds: np.ndarray) -> np.ndarray:
    """Sums of the values between neighbouring bounds, which begin with 0 and end with the values."""
    sums = np.zeros(len(bounds) - 1, np.int64)
    filled = np.diff(bounds) > 0
    sums[filled] = np.add.reduceat(values, bounds[:-1][filled], dtype=np.int64)
    return sums


def bounds(lengths: Any) -> np.ndarray:
    """Where parts that lie end to end begin, and where the last one ends, (parts + 1)."""
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
