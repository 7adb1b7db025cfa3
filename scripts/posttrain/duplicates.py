"""Rows that repeat an earlier one: exactly, by the hash of their content, or nearly, by MinHash (Broder 1997).

Two rows are compared by their sets of three words in a row. A signature of 128 minima estimates the Jaccard similarity of two
such sets with a standard error of at most 0.044; rows that agree in one of 16 bands of 8 minima are looked at.
"""

import hashlib
from array import array
from typing import Any

import numpy as np

from posttrain.rows import Row
from posttrain.words import TURNS, words

PERMUTATIONS, BANDS = 128, 16
SEED = 1
_ODD = np.random.default_rng(SEED).integers(1, 2**63, PERMUTATIONS, dtype=np.uint64) | np.uint64(1)


class Hashes(dict):
    """Word to its 64-bit hash, worked out when it is first asked for."""

    def __missing__(self, word: str) -> int:
        """Work out a word's hash."""
        value = self[word] = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "little")
        return value


_hashes = Hashes()


def signatures(rows: list[Row]) -> np.ndarray:
    """MinHash signatures of normalised rows, (rows, 128), of which 16 bits each are kept."""
    from rensa import RMinHash

    if len(_hashes) > 1_000_000:  # so that memory does not grow with a dataset of ever new words
        _hashes.clear()
    flat = array("Q")
    lengths = []
    for row in rows:
        before = len(flat)
        for salt, text in _texts(row):
            start = len(flat)
            flat.extend(map(_hashes.__getitem__, words(text)))
            if salt:
                flat[start:] = array("Q", (value ^ salt for value in flat[start:]))
        if len(flat) == before:  # only signs
            flat.append(_hashes[str(_texts(row))])
        lengths.append(len(flat) - before)
        flat.extend((0, 0))  # so that one word makes a triple
    hashes = np.frombuffer(flat, np.uint64)
    triples = hashes[:-2] * _ODD[0] + hashes[1:-1] * _ODD[1] + hashes[2:] * _ODD[2]
    ends = np.cumsum(np.array(lengths) + 2)[:-1]
    inside = np.ones(len(triples), bool)
    inside[ends - 2] = inside[ends - 1] = False  # what begins in the gap between two rows
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.uint64)
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(triples[inside], offsets, PERMUTATIONS, SEED)
    return np.array(matrix.to_rows(), np.uint32).astype(np.uint16)


def _texts(row: Row) -> list[tuple[int, str]]:
    """A row's texts, each with what tells it from the same words elsewhere: as a rejected answer, or with another label."""
    if "text" in row:
        return [(0, row["text"])]
    salts = {"rejected": _hashes["rejected"], "completion": _hashes[str(row.get("label"))]}
    return [(salts.get(key, 0), turn["content"]) for key in TURNS if key in row for turn in row[key]]


def bands(signatures: np.ndarray) -> np.ndarray:
    """Hashes of a signature's bands, (rows, 16): equal where two rows agree in a whole band."""
    parts = signatures.reshape(len(signatures), BANDS, PERMUTATIONS // BANDS).astype(np.uint64)
    return (parts * _ODD[: parts.shape[2]]).sum(2, dtype=np.uint64)


def originals(ids: np.ndarray, bands: Any, signatures: Any, threshold: float | None) -> tuple[np.ndarray, np.ndarray]:
    """For each row the earlier one that it repeats, or -1, and how similar they are, 1 where they are equal.

    Args:
        ids: (n,) bytes, equal for equal rows.
        bands: (n, 16), and `signatures`, (n, 128); neither is read where the threshold is None.
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
            alike = (signatures[rows] == signatures[others]).mean(1)
            near = alike >= threshold
            original[rows[near]] = others[near]
            similarity[rows[near]] = np.minimum(alike[near], 0.99)  # they differ in something
    return original, similarity
