"""Rows that repeat an earlier one: exactly, by the hash of their content, or nearly, by MinHash (Broder 1997).

Two rows are compared by their sets of three words in a row. A signature of 128 minima estimates the Jaccard similarity of two
such sets with a standard error of at most 0.044; rows that agree in one of 16 bands of 8 minima are looked at. Long rows
that differ in their answers alone, or whose answers are swapped, are alike on the whole, and so their answers must be too.
"""

import hashlib
from functools import cache
from typing import Any

import numpy as np

from posttrain.rows import Row
from posttrain.words import TURNS, bounds, word_hashes

PERMUTATIONS, BANDS, ANSWERS = 128, 16, 16
WIDTH = PERMUTATIONS + ANSWERS
ALIKE_ANSWERS = 0.5
SEED = 1
_ODD = np.random.default_rng(SEED).integers(1, 2**63, PERMUTATIONS, dtype=np.uint64) | np.uint64(1)


def signatures(rows: list[Row]) -> np.ndarray:
    """MinHash signatures of normalised rows, (rows, 144), of which 16 bits each are kept: 128 minima of all that a row
    says, 16 of its answers alone.
    """
    texts = [_texts(row) for row in rows]
    flat = [text for some in texts for text in some]
    hashes, starts = word_hashes([text for _, text, _ in flat])
    hashes ^= np.repeat(np.array([salt for salt, *_ in flat], np.uint64), np.diff(starts))
    row_of = np.repeat(np.repeat(np.arange(len(rows)), [len(some) for some in texts]), np.diff(starts))
    answers = np.repeat(np.array([is_answer for *_, is_answer in flat], bool), np.diff(starts))
    return np.concatenate(
        [_minima(hashes, row_of, texts, PERMUTATIONS), _minima(hashes[answers], row_of[answers], texts, ANSWERS)],
        axis=1,
    )


def _minima(hashes: np.ndarray, row_of: np.ndarray, texts: list, permutations: int) -> np.ndarray:
    """The minima of each row's triples, (rows, permutations).

    Args:
        hashes: (words,) in the order of their rows, `row_of`.
        texts: of each row; they stand for the one word of a row that has none, only signs.
    """
    from rensa import RMinHash

    lengths = np.bincount(row_of, minlength=len(texts))
    empty = np.flatnonzero(lengths == 0)
    signs = np.array([_number(repr(texts[row])) for row in empty], np.uint64)
    hashes = np.insert(hashes, bounds(lengths)[empty], signs)
    lengths = np.maximum(lengths, 1)
    places = np.arange(len(hashes)) + np.repeat(2 * np.arange(len(texts)), lengths)
    spread = np.zeros(len(hashes) + 2 * len(texts), np.uint64)  # two zeros after a row, so that one word makes a triple
    spread[places] = hashes
    triples = spread[places] * _ODD[0] + spread[places + 1] * _ODD[1] + spread[places + 2] * _ODD[2]
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(
        triples, bounds(lengths).astype(np.uint64), permutations, SEED
    )
    return np.array(matrix.to_rows(), np.uint32).astype(np.uint16)


def _texts(row: Row) -> list[tuple[int, str, bool]]:
    """A row's texts, each with what tells it from the same words elsewhere, and whether it is an answer.

    The same words are others as a rejected answer, with another label, or about other images.
    """
    if "text" in row:
        return [(0, row["text"], True)]
    images = _number(repr(row["images"])) if "images" in row else 0
    salts = {"rejected": _salt("rejected"), "completion": _salt(repr(row.get("label")))}
    return [
        (salts.get(key, images), text, turn["role"] == "assistant")
        for key in TURNS
        for turn in row.get(key, ())
        for text in (turn["content"], turn.get("tool_calls"))
        if text
    ]


def _number(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


_salt = cache(_number)  # of the few words that tell a side or a label


def bands(signatures: np.ndarray) -> np.ndarray:
    """Hashes of a signature's bands, (rows, 16): equal where two rows agree in a whole band."""
    parts = signatures[:, :PERMUTATIONS].reshape(len(signatures), BANDS, PERMUTATIONS // BANDS).astype(np.uint64)
    return (parts * _ODD[: parts.shape[2]]).sum(2, dtype=np.uint64)


def originals(ids: np.ndarray, bands: Any, signatures: Any, threshold: float | None) -> tuple[np.ndarray, np.ndarray]:
    """For each row the earlier one that it repeats, or -1, and how similar they are, 1 where they are equal.

    Args:
        ids: (n,) bytes, equal for equal rows.
        bands: (n, 16), and `signatures`, (n, 144); neither is read where the threshold is None.
        threshold: Jaccard similarity from which two rows are near duplicates; None looks for equal rows only.
    """
    n = len(ids)
    _, first, which = np.unique(ids, return_index=True, return_inverse=True)
    original = np.where(first[which] < np.arange(n), first[which], -1)
    similarity = np.ones(n, np.float32)
    for band in range(BANDS if threshold is not None else 0):
        order = np.argsort(bands[:, band], kind="stable")
        keys = bands[order, band]
        starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
        leaders = np.repeat(order[starts], np.diff(np.append(starts, n)))  # the earliest row of each bucket
        candidates = np.flatnonzero((leaders != order) & (original[order] < 0))
        for start in range(0, len(candidates), 20_000):
            some = candidates[start : start + 20_000]
            rows, others = order[some], leaders[some]
            same = signatures[rows] == signatures[others]
            alike = same[:, :PERMUTATIONS].mean(1)
            near = (alike >= threshold) & (same[:, PERMUTATIONS:].mean(1) >= ALIKE_ANSWERS)
            original[rows[near]] = others[near]
            similarity[rows[near]] = np.minimum(alike[near], 0.99)  # they differ in something
    return original, similarity
