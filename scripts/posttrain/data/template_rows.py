"""Training rows that are like a held-out row only because both are made from one template.

Such rows all lack the same part of the held-out row: what fills the template's gaps. Edited copies of a row lack different parts.
Rows with the same prompt count as one, so that one copy with several completions is not taken for a template.
"""

from typing import Any, NamedTuple

import numpy as np

MIN_ROWS = 3  # rows like a held-out one that ask different things: two may as well be the same row, edited twice
KNOWN = 32  # rows like a held-out one after which it is decided whether they are of one template
OWN = 0.5  # a piece is the held-out row's own where more than this share of the rows lack it ...
TOLD = 0.5  # ... and rows are of a template where its own pieces are at least this share of all that they lack
SHARE = 0.7  # of a held-out row's own pieces, which a row of its template has to have


class Near(NamedTuple):
    """A training row in which a held-out row stands, or seems to."""

    number: int
    """of the held-out row"""
    row: int
    """the training row's number"""
    share: float
    """of the held-out row's words"""
    exact: bool
    place: dict[str, Any]


class Templates:
    """Collects pairs in the training rows' order, and tells which of them count."""

    def __init__(self) -> None:
        """Begin without pairs."""
        self._certain: list[Near] = []
        self._waiting: dict[int, list[tuple[Near, np.ndarray]]] = {}
        self._asked: dict[int, dict[int, np.ndarray]] = {}
        self._own: dict[int, np.ndarray | None] = {}

    def add(self, near: Near, lacks: np.ndarray | None, asked: int) -> None:
        """Take in a pair.

        Args:
            lacks: which of the held-out row's pieces the training row lacks; None where it equals the row.
            asked: equal where two training rows ask the same.
        """
        if near.exact or lacks is None or not lacks.any():
            self._certain.append(near)
        elif near.number in self._own:
            self._judge(near, lacks)
        else:
            self._waiting.setdefault(near.number, []).append((near, lacks))
            others = self._asked.setdefault(near.number, {})
            others.setdefault(asked, lacks)
            if len(others) == KNOWN:
                self._decide(near.number)

    def _decide(self, number: int) -> None:
        self._own[number] = _own_pieces(np.stack(list(self._asked.pop(number).values())))
        for near, lacks in self._waiting.pop(number):
            self._judge(near, lacks)

    def _judge(self, near: Near, lacks: np.ndarray) -> None:
        own = self._own[near.number]
        if own is None or lacks[own].mean() <= 1 - SHARE:
            self._certain.append(near)

    def found(self) -> list[Near]:
        """The pairs that count, in the order of the training rows."""
        for number in list(self._waiting):
            self._decide(number)
        return sorted(self._certain, key=lambda near: (near.row, near.number))


def _own_pieces(lacks: np.ndarray) -> np.ndarray | None:
    """Which pieces (rows, pieces) are the held-out row's own; None where the rows are of no template."""
    own = lacks.mean(0) > OWN
    if len(lacks) < MIN_ROWS or not own.any() or lacks[:, own].sum() < TOLD * lacks.sum():
        return None
    return own
