"""Held-out rows that stand in the training rows as well, as they are or lightly edited (contamination).

Runs of words in common find the pairs of rows to look at, as in GPT-3's decontamination (Brown et al. 2020, appendix C: N
words, N from 8 to 13 by the length of a benchmark's rows; no case, no punctuation); how much of the held-out row stands in
that one training row decides. N is 8 here: an edit in each twenty words often leaves no 13 words in a row of a prompt of
15 to 30 words, and the share sorts out the pairs that have no more than a phrase in common.

What is compared of a held-out row:
- System turns and rejected completions are left out: rows share the former by design, and the latter are made from the chosen ones.
- Its user turns of 8 words and more, if they have 13 words or more together: a model that has seen the prompt has seen the row.
- Otherwise, and if images are part of the prompt, all its words.
- Words about a picture are others than the same words about another one: rows with files are only compared with rows with the same.
- Rows of fewer words have to be equal: all words of the row, or its only user turn of 8 words and more, are the words of
  a turn, of two neighbouring turns or of a training row from some turn on.

Runs of words that many held-out rows have are boilerplate, such as a prompt's template, and their words do not count; in a row with
boilerplate, nor do runs of three words that many rows have, which are the template's between its gaps.
Of a training row all turns are read, the system's too, so that examples in a system prompt are found.

Rows made from one short template ("How do I return my {product}?") have no eight words in a row in common, and are alike by
their template all the same. They are told by what differs: training rows that are like a held-out row and all lack the same
part of it share its template, and count only where they have that part (see `template_rows`).
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from posttrain.data import dataset_types
from posttrain.data.dataset_types import MEDIA, TURNS
from posttrain.data.duplicates import hashed
from posttrain.data.rows import batches
from posttrain.data.template_rows import Near, Templates
from posttrain.metrics.word_hashes import Runs, bounds, word_hashes

GRAM = 8
MIN_WORDS = 13  # counted words below which a row has to be equal: half a short prompt is a phrase that others write too
BOILERPLATE = 10  # rows: a run of words in more of them (GPT-3's number), or in more than half of them, does not count
SHARE = 0.7  # of the counted words; of rows with an edit in each twenty words 98 % have more, rows of real sets that differ 0.65
PIECE = 3  # words: overlap is measured in runs of this length, so that an edit affects few words around it
LOOK = 1 / 40  # of a held-out row's runs: with fewer in common a pair is not looked at; edited rows keep 1 / 4 and more
EXAMPLES = 5
PLACES = 1000  # of held-out rows that are named

BATCH = 500  # rows
BATCH_BYTES = 2**20  # of text: takes some 60 MB at work


def overlap(train: Path, held_out: Path) -> dict[str, Any]:
    """Which rows of one Parquet file of normalised rows stand in another; the training file is streamed.

    Returns:
        `rows`: held-out rows; `exact`: those whose compared words stand in one training row as they are; `shared`: those
        of which at least SHARE stands in one training row, the exact ones included; `train_rows`: training rows that
        have one of them; `places`: where the first 1000 shared ones stand; `examples`: up to five, the highest share first,
        each with `id`, `place`, `train_id`, `train_place`, `share` and the first 200 characters as `text`.
    """
    import pyarrow.parquet as pq

    if not pq.read_metadata(held_out).num_rows:
        return {"rows": 0, "exact": 0, "shared": 0, "train_rows": 0, "places": [], "examples": []}
    ours = _held_out(_batches(held_out))
    found = _found(ours, _batches(train))
    best: dict[int, Near] = {}
    for near in found:  # the first of equals stays
        if near.number not in best or near.share > best[near.number].share:
            best[near.number] = near
    shown = sorted(best.values(), key=lambda near: (-near.share, near.number))[:EXAMPLES]
    return {
        "rows": len(ours.labels),
        "exact": len({near.number for near in found if near.exact}),
        "shared": len(best),
        "train_rows": len({near.row for near in found}),
        "places": [ours.labels[number]["place"] for number in sorted(best)[:PLACES]],
        "examples": [ours.labels[near.number] | near.place | {"share": round(near.share, 3)} for near in shown],
    }


def pairs(train: Iterable[Any], held_out: Iterable[Any]) -> np.ndarray:
    """Which rows of some Arrow batches stand in rows of others, (pairs, 2): the number of the held-out row, and of the other."""
    found = _found(_held_out(_sliced(held_out)), _sliced(train))
    return np.array([(near.number, near.row) for near in found], np.int64).reshape(-1, 2)


def _found(ours: "_HeldOut", train: Iterable[Any]) -> list[Near]:
    """The pairs of training rows and held-out rows that stand in them, in the training rows' order."""
    templates, start = Templates(), 0
    for batch in train:
        texts, rows, roles = _turns(batch)
        theirs = _Words(texts, rows, batch.num_rows, _salts(batch))
        asked = np.zeros(batch.num_rows, np.uint64)
        said = np.isin(roles, ("user", "text"))
        np.add.at(asked, rows[said], theirs.runs.between(theirs.turns[:-1][said], theirs.turns[1:][said]))
        for pair in sorted(_equal(ours, theirs) + _alike(ours, theirs), key=lambda pair: pair[:4]):
            place = {f"train_{name}": batch[name][pair.row].as_py() for name in ("id", "place")}
            templates.add(
                Near(pair.number, start + pair.row, pair.share, pair.exact, place), pair.lacks, int(asked[pair.row])
            )
        start += batch.num_rows
    return templates.found()


class _Pair(NamedTuple):
    """A training row of a batch and the number of a held-out row that stands in it."""

    row: int
    number: int
    share: float
    exact: bool
    lacks: np.ndarray | None = None
    """(words) of the held-out row, where the training row lacks the PIECE words from there on; None where it equals it"""


# ---- an index of hashes


class _Index:
    """Owners by hash."""

    def __init__(self, hashes: np.ndarray, owners: np.ndarray):
        order = np.argsort(hashes, kind="stable")
        self.hashes, self.owners = hashes[order], owners[order]
        bits = max(10, len(hashes).bit_length() + 4)
        self.shift = np.uint64(64 - bits)
        self.seen = np.zeros(1 << bits, bool)  # answers for most hashes that are not there, faster than a search
        self.seen[hashes >> self.shift] = True

    def find(self, hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Positions in `hashes` and an owner of each, both (found); a position stands once for each of its owners."""
        where = np.flatnonzero(self.seen[hashes >> self.shift])
        start = np.searchsorted(self.hashes, hashes[where])
        there = self.hashes[np.minimum(start, len(self.hashes) - 1)] == hashes[where]
        where, start = where[there], start[there]
        end = np.searchsorted(self.hashes, hashes[where], side="right")
        return np.repeat(where, end - start), self.owners[_ranges(start, end)]


def _ranges(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """The numbers from each start up to its end, one range after the other."""
    lengths = end - start
    return np.arange(lengths.sum()) + np.repeat(start - bounds(lengths)[:-1], lengths)


def _widened(starts: np.ndarray, length: int) -> np.ndarray:
    """Of where runs of `length` words start, which words they cover; both (words)."""
    covered = starts.copy()
    for step in range(1, length):
        covered[step:] |= starts[:-step]
    return covered


class _Words:
    """The words of some rows, end to end, as hashes of runs of them."""

    def __init__(self, texts: list[str], turn_rows: np.ndarray, rows: int, salts: np.ndarray | None):
        hashes, self.turns = word_hashes(texts)
        lengths = np.diff(self.turns)
        if salts is not None:
            hashes = hashes ^ np.repeat(salts[turn_rows], lengths)
        self.runs, self.turn_rows = Runs(hashes), turn_rows
        self.rows = bounds(np.bincount(turn_rows, lengths, rows))
        self.word_rows = np.repeat(turn_rows, lengths)
        ends = self.rows[self.word_rows + 1]
        self.grams = self.runs.each(GRAM, ends)
        self.pieces = (self.runs.each(PIECE, ends) >> np.uint64(32)).astype(np.uint32)  # enough within one row


def _batches(path: Path) -> Iterator[Any]:
    """A Parquet file's rows, some at a time."""
    return _sliced(batches(path, BATCH, ("id", "place", *MEDIA, "text", *TURNS)))


def _sliced(batches: Iterable[Any]) -> Iterator[Any]:
    """Batches in slices of at most BATCH_BYTES, as long as a row is no longer."""
    for batch in batches:
        rows = -(-batch.num_rows // (1 + batch.nbytes // BATCH_BYTES))
        yield from (batch.slice(first, rows) for first in range(0, batch.num_rows, max(1, rows)))


def _turns(batch: Any, without: tuple[str, ...] = ()) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Contents, rows and roles of all turns of a batch, row by row (reading whole rows takes as long as all the rest)."""
    import pyarrow.compute as pc

    kind = dataset_types.of(batch.schema.names)
    if not kind.turns:
        return batch["text"].to_pylist(), np.arange(batch.num_rows), np.full(batch.num_rows, "text")
    contents, rows, roles = [], [], []
    for name in [name for name in kind.turns if name not in without]:
        turns = batch[name].flatten()
        contents += turns.field("content").to_pylist()
        roles += turns.field("role").to_pylist()
        rows.append(np.repeat(np.arange(batch.num_rows), pc.list_value_length(batch[name]).to_numpy()))
    rows = np.concatenate(rows)
    order = np.argsort(rows, kind="stable")
    return [contents[i] for i in order], rows[order], np.array(roles)[order]


def _salts(batch: Any) -> np.ndarray | None:
    """(rows,) uint64, equal for rows about the same files and 0 of none; None where the rows' type has no files."""
    media = dataset_types.of(batch.schema.names).media
    if not media:
        return None
    files = zip(*(batch[name].to_pylist() for name in media), strict=True)
    return np.array([hashed(repr(names)) if any(names) else 0 for names in files], np.uint64)


# ---- the held-out rows


class _HeldOut(NamedTuple):
    """What is compared of the held-out rows: their words end to end, question by question."""

    labels: list[dict[str, Any]]
    equal: _Index
    """rows by the hash of what has to be equal"""
    grams: _Index
    """rows by the hash of GRAM words"""
    gram_counts: np.ndarray
    """(rows)"""
    bounds: np.ndarray
    """(rows + 1), in the words"""
    pieces: np.ndarray
    """(words), the hash of PIECE words"""
    counted: np.ndarray
    """(words), False for boilerplate"""


class _Read(NamedTuple):
    """The held-out rows as they are read: all turns except system turns and rejected completions."""

    turn_rows: np.ndarray
    lengths: np.ndarray
    """(turns)"""
    turn_hashes: np.ndarray
    asks: np.ndarray
    """(turns), whether it is a question that tells which row it is"""
    row_hashes: np.ndarray
    row_lengths: np.ndarray
    grams: np.ndarray
    """(words)"""
    pieces: np.ndarray
    """(words)"""


def _held_out(batches: Iterable[Any]) -> _HeldOut:
    labels, parts = [], []
    for batch in batches:
        kind = dataset_types.of(batch.schema.names)
        contents, rows, roles = _turns(batch, without=kind.derived)
        contents = ["" if role == "system" else content for content, role in zip(contents, roles, strict=True)]
        read = _Words(contents, rows, batch.num_rows, _salts(batch))
        lengths = np.diff(read.turns)
        parts.append(
            _Read(
                turn_rows=rows + len(labels),
                lengths=lengths,
                turn_hashes=read.runs.between(read.turns[:-1], read.turns[1:]),
                asks=(roles == "user") & (lengths >= GRAM) & (not kind.media),  # of many images the same is asked
                row_hashes=read.runs.between(read.rows[:-1], read.rows[1:]),
                row_lengths=np.diff(read.rows),
                grams=read.grams,
                pieces=read.pieces,
            )
        )
        labels += _labels(batch, contents, rows)
    columns = [list(column) for column in zip(*parts, strict=True)]  # one by one, or all words are held twice
    del parts, read
    return _compared(labels, _Read(*(np.concatenate(columns.pop(0)) for _ in _Read._fields)))


def _labels(batch: Any, contents: list[str], rows: np.ndarray) -> list[dict[str, Any]]:
    said = [[] for _ in range(batch.num_rows)]
    for content, row in zip(contents, rows.tolist(), strict=True):
        said[row] += [content] if content else []
    names = zip(batch["id"].to_pylist(), batch["place"].to_pylist(), said, strict=True)
    return [{"id": id, "place": place, "text": "\n".join(turns)[:200]} for id, place, turns in names]


def _compared(labels: list[dict[str, Any]], read: _Read) -> _HeldOut:
    """Choose which words of each row are compared and which of them count."""
    count = len(labels)
    limit = min(BOILERPLATE, max(1, count // 2))
    row_of = np.repeat(read.turn_rows.astype(np.int32), read.lengths)
    frequent = _frequent(read.grams, row_of, limit) & (read.grams != 0)
    counted = ~_template(read, row_of, _widened(frequent, GRAM), limit)
    asked = np.repeat(read.asks, read.lengths)
    by_question = np.bincount(row_of, asked & counted, count) >= MIN_WORDS
    kept = asked | ~by_question[row_of]
    enough = np.bincount(row_of, kept & counted, count) >= MIN_WORDS
    kept &= enough[row_of]

    room = (np.repeat(bounds(read.lengths)[1:], read.lengths) - np.arange(len(row_of)))[kept]  # words left in the turn
    row_of = row_of[kept]
    grams = np.where(frequent[kept], 0, read.grams[kept])
    pieces = np.where(by_question[row_of] & (room < PIECE), 0, read.pieces[kept])
    index = _Index(grams[grams != 0], row_of[grams != 0])
    return _HeldOut(
        labels,
        equal=_to_be_equal(read, limit),
        grams=index,
        gram_counts=np.bincount(index.owners, minlength=count),
        bounds=bounds(np.bincount(row_of, minlength=count)),
        pieces=pieces,
        counted=counted[kept],
    )


def _template(read: _Read, row_of: np.ndarray, boilerplate: np.ndarray, limit: int) -> np.ndarray:
    """Boilerplate, and in rows that have some also the shorter runs that many rows have: the template between its gaps; (words)."""
    if limit < BOILERPLATE or not boilerplate.any():  # half of a few rows may well share three words
        return boilerplate
    often = _frequent(read.pieces.astype(np.uint64) << np.uint64(32), row_of, limit) & (read.pieces != 0)
    return boilerplate | (_widened(often, PIECE) & (np.bincount(row_of, boilerplate) > 0)[row_of])


def _to_be_equal(read: _Read, limit: int) -> _Index:
    """Rows by the hash of all their words, and by that of their only question where few others ask the same."""
    some = np.flatnonzero(read.row_lengths)
    only = np.flatnonzero(read.asks & (np.bincount(read.turn_rows, read.asks) == 1)[read.turn_rows])
    only = only[~_frequent(read.turn_hashes[only], read.turn_rows[only], limit)]
    hashes = np.concatenate([read.row_hashes[some], read.turn_hashes[only]])
    return _Index(hashes, np.concatenate([some, read.turn_rows[only]]))


def _frequent(hashes: np.ndarray, rows: np.ndarray, limit: int) -> np.ndarray:
    """Which hashes stand in more than `limit` rows, where `rows` go up; all (hashes)."""
    frequent = np.zeros(len(hashes), bool)
    for part in np.arange(16, dtype=np.uint64):  # sorted at once, a large file's words would take twice the memory
        where = np.flatnonzero(hashes >> np.uint64(60) == part)
        order = where[np.argsort(hashes[where], kind="stable")]
        other = np.diff(hashes[order], prepend=0) != 0
        group = np.cumsum(other)
        in_rows = np.bincount(group, other | (np.diff(rows[order], prepend=-1) != 0))
        frequent[order] = (in_rows > limit)[group]
    return frequent


# ---- the pairs


def _equal(ours: _HeldOut, theirs: _Words) -> list[_Pair]:
    """Pairs in which a turn, two turns that follow each other, or a row from some turn on is what the held-out row is."""
    start, end, row_end = theirs.turns[:-1], theirs.turns[1:], theirs.rows[theirs.turn_rows + 1]
    pairs = []
    for last in (end, np.minimum(np.append(end[1:], end[-1:]), row_end), row_end):
        turns, numbers = ours.equal.find(theirs.runs.between(start, last))
        rows = theirs.turn_rows[turns]
        pairs += [_Pair(row, number, 1.0, True) for row, number in zip(rows.tolist(), numbers.tolist(), strict=True)]
    return pairs


def _alike(ours: _HeldOut, theirs: _Words) -> list[_Pair]:
    """Pairs that have runs of words in common, and enough of the held-out row in the training row."""
    where, numbers = ours.grams.find(theirs.grams)
    common, counts = np.unique(theirs.word_rows[where] * len(ours.labels) + numbers, return_counts=True)
    rows, numbers = np.divmod(common, len(ours.labels))
    looked_at = counts >= LOOK * ours.gram_counts[numbers]
    rows, numbers = rows[looked_at], numbers[looked_at]
    pairs = []
    for row in np.unique(rows).tolist():
        candidates = numbers[rows == row]
        pieces = theirs.pieces[theirs.rows[row] : theirs.rows[row + 1]]
        for number, (share, lacks) in zip(candidates.tolist(), _shares(ours, candidates, pieces), strict=True):
            if share >= SHARE:
                exact = share == 1 and _stands_in(ours.pieces[ours.bounds[number] : ours.bounds[number + 1]], pieces)
                pairs.append(_Pair(row, number, share, exact, lacks))
    return pairs


def _shares(ours: _HeldOut, numbers: np.ndarray, pieces: np.ndarray) -> Iterator[tuple[float, np.ndarray]]:
    """Of each held-out row the share of its counted words that stand in a training row, and which pieces do not.

    Args:
        pieces: the training row's.
    """
    start, end = ours.bounds[numbers], ours.bounds[numbers + 1]
    chosen = _ranges(start, end)
    counted = ours.counted[chosen]
    pieces = np.sort(pieces[pieces != 0])
    at = np.minimum(np.searchsorted(pieces, ours.pieces[chosen]), len(pieces) - 1)
    there = pieces[at] == ours.pieces[chosen]
    both = np.stack([_widened(there, PIECE) & counted, counted])
    edges = bounds(end - start)
    common, all_words = np.add.reduceat(both, edges[:-1], axis=1, dtype=np.int64)
    lacks = counted & ~there & (ours.pieces[chosen] != 0)
    for i, share in enumerate((common / all_words).tolist()):
        yield share, lacks[edges[i] : edges[i + 1]]


def _stands_in(ours: np.ndarray, theirs: np.ndarray) -> bool:
    """Whether each question of a held-out row, or the whole of it, stands in a training row as it is; both are pieces."""
    edges = np.flatnonzero(np.diff(ours != 0, prepend=False, append=False))
    for first, last in edges.reshape(-1, 2).tolist():
        part = ours[first:last]
        if not any(np.array_equal(theirs[i : i + len(part)], part) for i in np.flatnonzero(theirs == part[0])):
            return False
    return True
