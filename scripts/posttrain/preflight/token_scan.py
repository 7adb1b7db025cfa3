"""One pass over a run's tokens, a sample of its rows, and any row as people can read it.

The tokens are counted on Arrow's buffers with numpy, batch by batch: a token costs nanoseconds, a row a few bytes that stay.
"""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

import numpy as np

from posttrain.data.dataset_types import DATASET_TYPES, MEDIA
from posttrain.data.encoding import IGNORED
from posttrain.data.messages import Row
from posttrain.data.rows import batches, without_nulls
from posttrain.metrics.word_hashes import Runs, sums

SIDES = tuple(dict.fromkeys(name for row in DATASET_TYPES.values() for name in row.trained_columns))
END = 3  # trained tokens, among which the stop token is: a template may write a line's end after it
SHORT = 8  # trained tokens of an answer that may be an empty one
BATCH = 4096  # rows
SHOWN = 300  # characters of a long text at either end

_FACTOR = np.uint64(0x9E3779B97F4A7C15)  # odd, so that it has an inverse modulo 2^64


class Side(NamedTuple):
    """What is trained in each row, on one side; all (rows,)."""

    trained: np.ndarray
    """tokens"""
    stopped: np.ndarray
    """whether a stop token is among the last of them"""
    blank: np.ndarray
    """whether there is no text in them"""
    cut: np.ndarray
    """whether the row is as long as it may be"""
    digest: np.ndarray
    """a hash of the ids"""


class Tokens(NamedTuple):
    """All rows of a run's tokens."""

    lengths: np.ndarray
    """(rows,)"""
    doubled: np.ndarray
    """(rows,): whether the row begins with two BOS"""
    digest: np.ndarray
    """(rows,): a hash of all ids"""
    ids: np.ndarray
    """the ids that occur, sorted"""
    sides: dict[str, Side]
    """`labels`, or `chosen_ids` and `rejected_ids`, or `completion_ids`"""


def scan(file: Path, tokenizer: Any, stops: list[int], max_length: int) -> Tokens:
    """Measure the tokens that `tokenize_data` wrote."""
    blanks = _Blanks(tokenizer, stops)
    parts = [_measure(batch, blanks, max_length) for batch in batches(file, BATCH)]
    sides = {
        side: Side(*(np.concatenate(arrays) for arrays in zip(*(part.sides[side] for part in parts), strict=True)))
        for side in parts[0].sides
    }
    lengths, doubled, digest, ids = (np.concatenate([part[i] for part in parts]) for i in range(4))
    return Tokens(lengths, doubled, digest, np.unique(ids), sides)


def _measure(batch: Any, blanks: "_Blanks", max_length: int) -> Tokens:
    columns = {name: _flat(batch[name]) for name in batch.schema.names if name.endswith("_ids") or name == "labels"}
    first = "input_ids" if "input_ids" in columns else "prompt_ids"
    ids, bounds = columns[first]
    opens = np.diff(bounds) > 1
    doubled = np.zeros(len(opens), bool)
    doubled[opens] = (ids[bounds[:-1][opens]] == blanks.bos) & (ids[bounds[:-1][opens] + 1] == blanks.bos)
    before = np.diff(bounds) if first == "prompt_ids" else 0
    sides = {side: _side(*columns[side], before, blanks, max_length) for side in SIDES if side in columns}
    digest = _digest(ids, bounds)
    for side in sides.values():
        digest = digest * _FACTOR + side.digest
    for name in set(MEDIA).intersection(batch.schema.names):  # of many pictures or sounds the same is asked
        files = [crc32(repr(names).encode()) for names in batch[name].to_pylist()]
        digest = digest * _FACTOR + np.array(files, digest.dtype)
    present = [np.flatnonzero(np.bincount(values)) for name, (values, _) in columns.items() if name != "labels"]
    return Tokens(batch["length"].to_numpy(), doubled, digest, np.unique(np.concatenate(present)), sides)


def _flat(column: Any) -> tuple[np.ndarray, np.ndarray]:
    """The values of a column of lists, end to end, and where each list begins: (rows + 1,)."""
    bounds = column.offsets.to_numpy().astype(np.int64)
    return column.flatten().to_numpy(), bounds - bounds[0]


def _side(ids: np.ndarray, bounds: np.ndarray, before: Any, blanks: "_Blanks", max_length: int) -> Side:
    """`before`: tokens of each row that stand before these ids."""
    where = np.flatnonzero(ids != IGNORED)
    trained = sums(ids != IGNORED, bounds)
    ends = np.cumsum(trained)
    stopped, values = np.zeros(len(trained), bool), ids[where]
    for back in range(1, END + 1):
        enough = trained >= back
        stopped[enough] |= np.isin(values[ends[enough] - back], blanks.stops)
    blank = np.zeros(len(trained), bool)
    for row in np.flatnonzero(trained <= SHORT):
        blank[row] = blanks.all(values[ends[row] - trained[row] : ends[row]])
    return Side(trained, stopped, blank, np.diff(bounds) + before >= max_length, _digest(ids, bounds))


def _digest(ids: np.ndarray, bounds: np.ndarray) -> np.ndarray:
    """A polynomial hash of each list, in 64 bits."""
    mixed = (ids.astype(np.int64) + 1 - IGNORED).astype(np.uint64) * _FACTOR
    runs = Runs(mixed ^ (mixed >> np.uint64(29)))
    return runs.between(bounds[:-1], bounds[1:]) + np.diff(bounds).astype(np.uint64)


class _Blanks:
    """The tokens that are no text: stop tokens, other special tokens, white space."""

    def __init__(self, tokenizer: Any, stops: list[int]) -> None:
        self.tokenizer, self.stops, self.bos = tokenizer, stops, tokenizer.bos_token_id
        self.known = dict.fromkeys(stops, True)

    def all(self, ids: np.ndarray) -> bool:
        return all(self._is_blank(token) for token in ids.tolist())

    def _is_blank(self, token: int) -> bool:
        if token not in self.known:
            self.known[token] = not self.tokenizer.decode([token], skip_special_tokens=True).strip()
        return self.known[token]


# ---- rows


def sample(file: Path, size: int) -> list[Row]:
    """So many normalised rows, evenly spaced."""
    import pyarrow.parquet as pq

    rows = pq.read_metadata(file).num_rows
    chosen = np.arange(min(rows, size)) * rows // max(1, min(rows, size))
    return without_nulls([row for batch, at in _taken(file, chosen) for row in batch.take(at).to_pylist()])


def row(file: Path, number: int) -> Row:
    """One row of a Parquet file."""
    batch, at = next(_taken(file, np.array([number])))
    return batch.take(at).to_pylist()[0]


def of_rows(file: Path | None, ids: set[str]) -> dict[str, list[Row]]:
    """The rows of tokens of some normalised rows, by the id of these; none of a file that is not there."""
    found: dict[str, list[Row]] = {}
    for batch in batches(file, BATCH) if file else ():
        own = [name.partition(".")[0] for name in batch["id"].to_pylist()]
        for at in (at for at, name in enumerate(own) if name in ids):
            found.setdefault(own[at], []).append(batch.slice(at, 1).to_pylist()[0])
    return found


def _taken(file: Path, wanted: np.ndarray) -> Iterator[tuple[Any, np.ndarray]]:
    """The batches that hold rows of these sorted numbers, and where in them."""
    start = 0
    for batch in batches(file, BATCH):
        inside = wanted[(wanted >= start) & (wanted < start + len(batch))] - start
        if len(inside):
            yield batch, inside
        start += len(batch)


def place(file: Path, id: str) -> str:
    """File and line that a row of tokens came from, and which of its answers is trained, where each has tokens of its own."""
    import pyarrow.compute as pc

    of, _, answer = id.partition(".")
    for batch in batches(file, BATCH, ("id", "place")):
        found = pc.index(batch["id"], of).as_py()
        if found >= 0:
            return batch["place"][found].as_py() + (f", answer {int(answer) + 1}" if answer else "")
    raise KeyError(id)


def marked(tokenizer: Any, tokens: Row, in_words: Callable[[str], str] = str) -> str:
    """The text of a row of tokens, what is trained between ⟦ and ⟧, the middle of long pieces left out.

    Args:
        in_words: see media_marks.py.
    """
    if "label" in tokens and "input_ids" in tokens:
        return f"{elided(tokenizer.decode(tokens['input_ids']))} ⟦{tokens['label']}⟧"
    if "input_ids" in tokens:
        return _pieces(tokenizer, tokens["input_ids"], tokens["labels"], in_words)
    prompt = tokens["prompt_ids"]
    sides = {side.removesuffix("_ids"): tokens[side] for side in SIDES if side in tokens}
    answers = [f"{name}: {_pieces(tokenizer, ids, ids)}" for name, ids in sides.items()]
    return "\n".join([f"prompt: {_pieces(tokenizer, prompt, [IGNORED] * len(prompt), in_words)}", *answers])


def _pieces(tokenizer: Any, ids: list[int], labels: list[int], in_words: Callable[[str], str] = str) -> str:
    trained = np.array([label != IGNORED for label in labels], bool)
    edges = [0, *(np.flatnonzero(np.diff(trained)) + 1).tolist(), len(ids)]
    pieces = []
    for start, end in itertools.pairwise(edges):
        text = elided(in_words(tokenizer.decode(ids[start:end])))
        pieces.append(f"⟦{text}⟧" if start < end and trained[start] else text)
    return "".join(pieces)


def elided(text: str) -> str:
    """A text without its middle, where it is long."""
    left_out = len(text) - 2 * SHOWN
    return text if left_out <= 0 else f"{text[:SHOWN]} [… {left_out} characters …] {text[-SHOWN:]}"
