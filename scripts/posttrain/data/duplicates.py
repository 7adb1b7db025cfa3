"""Rows that repeat an earlier one: exactly, by the hash of their content, or nearly, by MinHash (Broder 1997).

Two rows are compared by their sets of word trigrams (triples). Triples that many rows have belong to a template, an instruction or
a system prompt and do not count: rows that share an instruction are not duplicates, however long it is.
A signature of 128 minima estimates the Jaccard similarity of two such sets with a standard error of at most 0.044; rows that
agree in one of 32 bands of 4 minima are compared. A row with too few triples of its own has to have the same words.

Near rows with different completions stay on one side of a split, and are never duplicates.
"""

import hashlib
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from posttrain.data import dataset_types
from posttrain.data.messages import Row
from posttrain.metrics.word_hashes import Runs, bounds, word_hashes

PERMUTATIONS, BANDS = 128, 32
NEAR = 0.8  # similarity from which rows are reported as near and kept on one side of a split, unless a dataset sets another
SHARED = 10  # rows, or one in a thousand of them: a triple that more of them have does not count
SAMPLE, SAMPLE_TRIPLES = 10_000, 5_000_000  # rows, and triples of them, in which those are counted
MIN_TRIPLES = 5  # triples of its own below which a row has to be the same
SEED = 1
_ODD = np.random.default_rng(SEED).integers(1, 2**63, PERMUTATIONS, dtype=np.uint64) | np.uint64(1)


class RowHashes(NamedTuple):
    """Hashes of n rows, by which they are compared."""

    triples: np.ndarray
    """(triples,) uint32, row by row: hashes of word trigrams"""
    counts: np.ndarray
    """(n,) uint32: triples of each row"""
    words: np.ndarray
    """(n,) uint64: equal where all words are"""
    answers: np.ndarray
    """(n,) uint64: equal where the answers are, signs included: `a - b` has the words of `a + b`"""


def row_hashes(rows: list[Row]) -> RowHashes:
    """The triples of normalised rows, and hashes of all their words and of their answers."""
    texts = [_texts(row) for row in rows]
    flat = [text for some in texts for text in some]
    hashes, starts = word_hashes([text for _, text in flat])
    lengths = np.diff(starts)
    hashes = hashes ^ np.repeat(np.array([salt for salt, _ in flat], np.uint64), lengths)
    row_of = np.repeat(np.repeat(np.arange(len(rows)), [len(some) for some in texts]), lengths)
    counts = np.bincount(row_of, minlength=len(rows))
    signs = np.array([0 if count else hashed(repr(some)) for count, some in zip(counts, texts, strict=True)], np.uint64)
    return RowHashes(
        _triples(hashes, counts),
        counts.astype(np.uint32),
        _sequence(hashes, counts) ^ signs,
        np.array([hashed(_answers(row)) for row in rows], np.uint64),
    )


def _sequence(hashes: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """A hash of each row's words in their order, (rows,) uint64."""
    ends = bounds(counts)
    return Runs(hashes).between(ends[:-1], ends[1:])


def _triples(hashes: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Three words in a row from each word on, (words,) uint32; beyond a row's end there are zeros."""
    places = np.arange(len(hashes)) + np.repeat(2 * np.arange(len(counts)), counts)
    spread = np.zeros(len(hashes) + 2 * len(counts), np.uint64)
    spread[places] = hashes
    sums = spread[places] * _ODD[0] + spread[places + 1] * _ODD[1] + spread[places + 2] * _ODD[2]
    return (sums >> np.uint64(32)).astype(np.uint32)


def _texts(row: Row) -> list[tuple[int, str]]:
    """A row's texts, each with what tells it from the same words elsewhere.

    The same words are others as a rejected completion, with another label, or about other images.
    """
    kind = dataset_types.of(row)
    if not kind.turns:
        return [(0, row["text"])]
    files = [row[name] for name in kind.media]
    media = hashed("\0".join(map(repr, files))) if any(files) else 0
    salts = {name: _salt(mark(row)) for name, mark in kind.marks.items()}
    return [
        (salts.get(name, media), text)
        for name in kind.turns
        for turn in row[name]
        for text in (turn["content"], turn.get("tool_calls"))
        if text
    ]


def _answers(row: Row) -> str:
    """All that a row answers, thoughts and calls included, and what it is about or worth; a text as a whole is no answer."""
    kind = dataset_types.of(row)
    said = [repr(row[name]) for name in kind.facts]
    for name in kind.turns:
        for turn in row[name]:
            if turn["role"] == "assistant":
                said += name, turn["content"].strip(), turn.get("reasoning_content", ""), turn.get("tool_calls", "")
    return "\0".join(said)


def hashed(text: str) -> int:
    """64 bits of a hash of a text."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


_salt = cache(hashed)  # of the few words that tell a side or a label


# ---- what many rows have in common


def shared_triples(file: Path, counts: np.ndarray, words: np.ndarray) -> np.ndarray:
    """The triples that many rows have, sorted.

    They are counted in up to SAMPLE rows with other words, those of the smallest hashes, so that no order of the rows matters.

    Args:
        file: the triples of all rows, as `RowHashes.triples`.
        counts: (n,) triples of each row.
        words: (n,) equal where all words of a row are.
    """
    starts = bounds(counts)
    _, rows = np.unique(words, return_index=True)
    rows = rows[:SAMPLE]
    rows = rows[: max(1, int((np.cumsum(counts[rows], dtype=np.int64) <= SAMPLE_TRIPLES).sum()))]
    triples = np.memmap(file, np.uint32, "r") if starts[-1] else np.empty(0, np.uint32)
    found = np.concatenate([np.unique(triples[starts[row] : starts[row + 1]]) for row in rows.tolist()])
    values, times = np.unique(found, return_counts=True)
    return values[times > max(SHARED, len(rows) // 1000)]


# ---- signatures


class Piece(NamedTuple):
    """Some rows next to each other in a file of triples."""

    first: int
    """triples before them"""
    counts: np.ndarray
    words: np.ndarray


def signatures(piece: Piece, file: Path, shared: np.ndarray) -> np.ndarray:
    """MinHash signatures of rows without the triples that many share, (rows, 128), of which 16 bits each are kept."""
    size = int(piece.counts.sum(dtype=np.int64))
    triples = np.fromfile(file, np.uint32, size, offset=4 * piece.first)
    return minima(triples, piece.counts, piece.words, shared)


def minima(triples: np.ndarray, counts: np.ndarray, words: np.ndarray, shared: np.ndarray) -> np.ndarray:
    """The minima of each row's own triples, (rows, 128) uint16; of a row with too few, of all its words as one."""
    from rensa import RMinHash

    row_of = np.repeat(np.arange(len(counts)), counts)
    own = ~_among(triples, shared)
    few = np.bincount(row_of[own], minlength=len(counts)) < MIN_TRIPLES
    own &= ~few[row_of]
    values = np.concatenate([triples[own].astype(np.uint64), words[few]])
    owners = np.concatenate([row_of[own], np.flatnonzero(few)])
    values = values[np.argsort(owners, kind="stable")] * _ODD[0]
    starts = bounds(np.bincount(owners, minlength=len(counts))).astype(np.uint64)
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(values, starts, PERMUTATIONS, SEED)
    return np.array(matrix.to_rows(), np.uint32).astype(np.uint16).reshape(-1, PERMUTATIONS)


def _among(values: np.ndarray, some: np.ndarray) -> np.ndarray:
    """Which of the values are among some sorted ones."""
    seen = np.zeros(1 << 20, bool)  # answers for most values that are not among them, faster than a search
    low = np.uint32(len(seen) - 1)
    seen[some & low] = True
    among = seen[values & low]
    where = np.flatnonzero(among)
    at = np.searchsorted(some, values[where])
    among[where] = some[np.minimum(at, len(some) - 1)] == values[where]
    return among


def bands(signatures: np.ndarray) -> np.ndarray:
    """Hashes of a signature's bands, (rows, 32) uint32: equal where two rows agree in a whole band."""
    parts = signatures.reshape(len(signatures), BANDS, PERMUTATIONS // BANDS).astype(np.uint64)
    return ((parts * _ODD[: parts.shape[2]]).sum(2, dtype=np.uint64) >> np.uint64(32)).astype(np.uint32)


# ---- pairs


class Links(NamedTuple):
    """Pairs of near rows, in the order of the later one."""

    rows: np.ndarray
    earlier: np.ndarray
    similarity: np.ndarray

    def where(self, mask: np.ndarray) -> "Links":
        """Some of the pairs."""
        return Links(*(column[mask] for column in self))


def equal(ids: np.ndarray) -> np.ndarray:
    """For each row the first one that it equals, or -1 where it is that; `ids` are (n,) bytes, equal for equal rows."""
    _, first, which = np.unique(ids, return_index=True, return_inverse=True)
    return np.where(first[which] < np.arange(len(ids)), first[which], -1)


def links(rows: np.ndarray, bands: np.ndarray, signatures: np.ndarray, threshold: float) -> Links:
    """Pairs of rows whose own triples are alike: each row with the earliest one in each of its bands.

    Args:
        rows: the numbers of the rows to compare, sorted.
        bands: (n, 32) of all rows.
        signatures: (n, 128) of all rows.
        threshold: Jaccard similarity from which two rows are near.
    """
    pairs, alike = np.empty((0, 2), np.int64), np.empty(0, np.float32)
    for band in range(BANDS):
        order = rows[np.argsort(bands[rows, band], kind="stable")]
        keys = bands[order, band]
        starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))[: len(order)]
        leaders = np.repeat(order[starts], np.diff(np.append(starts, len(order))))  # the earliest row of each bucket
        found = np.stack([order, leaders], 1)[leaders != order]
        similarity = np.concatenate(
            [
                (signatures[some[:, 0]] == signatures[some[:, 1]]).mean(1, dtype=np.float32)
                for some in np.array_split(found, 1 + len(found) // 20_000)
            ]
        )
        near = similarity >= threshold
        pairs, at = np.unique(np.concatenate([pairs, found[near]]), axis=0, return_index=True)
        alike = np.concatenate([alike, similarity[near]])[at]
    return Links(pairs[:, 0], pairs[:, 1], np.minimum(alike, 0.99))  # they differ in something


def repeats(links: Links, answers: np.ndarray) -> Links:
    """Of near pairs those in which a row repeats one that is kept, with the same answers; one pair a row, the most alike."""
    removed: dict[int, int] = {}
    same = np.flatnonzero(answers[links.rows] == answers[links.earlier])
    for i in same[np.lexsort((-links.similarity[same], links.rows[same]))].tolist():
        if int(links.earlier[i]) not in removed:
            removed.setdefault(int(links.rows[i]), i)
    return links.where(np.array(sorted(removed.values()), np.int64))
