"""From files to normalised rows in one scratch file, in blocks, on several cores, with memory that does not grow with the text.

172 bytes per row stay in memory: its hash, its group's hash, the hashes of its words and of its bands.
"""

import json
from collections import Counter
from collections.abc import Iterator
from functools import partial
from itertools import chain, groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from posttrain.data import contamination, duplicates, files, message_trees, recognition, rows, splits, unknown_keys
from posttrain.data.formats import FORMATS
from posttrain.data.media import Store
from posttrain.data.readers.blocks import BLOCK_ROWS, Block
from posttrain.metrics.word_hashes import bounds
from posttrain.runtime.errors import UserError
from posttrain.runtime.parallel import ordered_map

MANY = 1000  # rows: where more than half of them are faulty, the others are not looked at
PIECE, MANY_PIECES = 4000, 25  # rows whose signatures are computed at once; pieces that are worth more processes
ROUNDS = 20  # of a split: each brings rows together that the one before had parted
COMPARED = 20_000  # rows up to which a split is compared word by word, as `overlap` does
SHOWN, SENTENCE = 10_000, 500  # characters that are kept of a dropped row and of what is wrong with it


class Format(NamedTuple):
    """How a dataset's rows are read."""

    name: str
    columns: dict[str, str]
    images: Path | None
    """the folder that paths of images and sounds are relative to; None is the file's own"""
    system: str | None = None
    """the system prompt of rows that have none"""
    folder: Path | None = None
    """the dataset's, to which images and sounds are brought"""

    @property
    def dataset_type(self) -> str:
        """What its rows are once they are normalised."""
        return FORMATS[self.name].dataset_type


class Part(NamedTuple):
    """What became of a block."""

    table: Any
    ids: np.ndarray
    """(n,) of 16 bytes"""
    groups: np.ndarray
    """(n,) uint64, equal for rows that stay on one side of a split; rows are held out in their order"""
    hashes: duplicates.RowHashes
    dropped: list[dict[str, str]]
    unknown: Counter[str]
    """how many rows have a key that is not read, see `unknown_keys.count`"""


class Intake:
    """The rows that were read, in their order, in one file; and in memory what duplicates and splits are found by."""

    def __init__(self, folder: Path, dataset_type: str, max_dropped: float) -> None:
        """Collect rows of a type in `folder`, with the dropped ones, of which a share is allowed, in dropped.jsonl."""
        import pyarrow as pa

        self.folder, self.dataset_type, self.max_dropped = folder, dataset_type, max_dropped
        self.writer = pa.ipc.new_file(str(folder / "rows.arrow"), rows.schema(dataset_type))
        self.rows = self.faults = 0
        self.first_fault: dict[str, str] = {}
        self.unknown: Counter[str] = Counter()
        self._ids: list[np.ndarray] = []
        self._groups: list[np.ndarray] = []
        self._hashes: list[tuple[np.ndarray, ...]] = []

    def add(self, parts: Iterator[Part]) -> int:
        """Add parts, or as many as show that most rows are invalid; returns the number of valid rows."""
        before = self.rows - self.faults
        file = self.folder / "dropped.jsonl"
        with self.triples.open("ab") as triples, file.open("a", encoding="utf-8") as dropped:
            for part in parts:
                self.writer.write_table(part.table)
                self._ids.append(part.ids)
                self._groups.append(part.groups)
                self._hashes.append(part.hashes[1:])
                part.hashes.triples.tofile(triples)
                dropped.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in part.dropped)
                unknown_keys.add(self.unknown, part.unknown)
                self.rows += len(part.ids) + len(part.dropped)
                self.faults += len(part.dropped)
                if part.dropped and not self.first_fault:
                    self.first_fault = part.dropped[0]
                if self.max_dropped < 0.5 and self.faults > max(self.rows, MANY) / 2:
                    break
        return self.rows - self.faults - before

    @property
    def triples(self) -> Path:
        """The file of all rows' triples of words."""
        return self.folder / "triples"

    def alike(self, threshold: float, cores: int) -> "Alike":
        """Which rows are equal, and which are near by a similarity; all rows are in."""
        self.writer.close()
        ids, groups = np.concatenate(self._ids), np.concatenate(self._groups)
        counts, words, answers = map(np.concatenate, zip(*self._hashes, strict=True))
        self._ids, self._groups, self._hashes = [], [], []
        first = duplicates.equal(ids)
        others = np.flatnonzero(first < 0)
        shared = duplicates.shared_triples(self.triples, counts, words)
        starts = bounds(counts)
        pieces = (
            duplicates.Piece(int(starts[at]), counts[at : at + PIECE], words[at : at + PIECE])
            for at in range(0, len(counts), PIECE)
        )
        signed = partial(duplicates.signatures, file=self.triples, shared=shared)
        bands = np.empty((len(ids), duplicates.BANDS), np.uint32)
        with (self.folder / "signatures").open("wb") as file:
            worth = cores if len(counts) > MANY_PIECES * PIECE else 1  # starting processes takes longer than few pieces
            for i, part in enumerate(ordered_map(signed, pieces, worth)):
                bands[i * PIECE : i * PIECE + len(part)] = duplicates.bands(part)
                part.tofile(file)
        signatures = np.memmap(self.folder / "signatures", np.uint16, "r", shape=(len(ids), duplicates.PERMUTATIONS))
        return Alike(first, duplicates.links(others, bands, signatures, threshold), answers, groups)

    def split(self, alike: "Alike", kept: np.ndarray, share: float | None) -> np.ndarray:
        """(n,) which of the kept rows are held out; near rows, and those that `overlap` would find, stay on one side."""
        count = splits.held_out_count(int(kept.sum()), share)
        pairs = np.stack([alike.links.rows, alike.links.earlier], 1)
        for _ in range(ROUNDS):
            clusters = splits.clusters(alike.groups, pairs)
            mask = splits.held_out(clusters, alike.groups, kept, count)
            if len(kept) > COMPARED or not mask.any():
                break
            sides = [np.flatnonzero(kept & side) for side in (mask, ~mask)]
            found = contamination.pairs(self._batches(sides[1]), self._batches(sides[0]))
            if not len(found):
                break
            pairs = np.concatenate([pairs, np.stack([sides[0][found[:, 0]], sides[1][found[:, 1]]], 1)])
        return mask

    def _batches(self, chosen: np.ndarray) -> Iterator[Any]:
        """The rows of these sorted numbers, in record batches."""
        for start, table in self.tables():
            first, end = np.searchsorted(chosen, [start, start + len(table)])
            if first < end:
                yield from table.take(chosen[first:end] - start).combine_chunks().to_batches()

    def tables(self) -> Iterator[tuple[int, Any]]:
        """The rows again, in tables of a few thousand, each with the number of its first row."""
        import pyarrow as pa

        start = 0
        with pa.OSFile(str(self.folder / "rows.arrow")) as file:  # a memory map would count as memory
            reader = pa.ipc.open_file(file)
            for i in range(reader.num_record_batches):
                table = pa.Table.from_batches([reader.get_batch(i)])
                yield start, table
                start += len(table)


class Alike(NamedTuple):
    """Rows that are alike, of n."""

    first: np.ndarray
    """(n,) for each row the first one that it equals, or -1 where it is that"""
    links: duplicates.Links
    """pairs of near rows"""
    answers: np.ndarray
    """(n,) equal where the answers are"""
    groups: np.ndarray
    """(n,) see `Part`"""


def recognise(paths: list[Path], columns: dict[str, str], format: str | None = None) -> recognition.Recognised:
    """The format and the columns of the first row that has one, and the sentence that says why; each file's first block is looked at.

    Args:
        format: what the configuration says it is; then only its columns are looked for.

    Raises:
        UserError: there is no row, or none fits a format; the sentence is the first row's.
    """
    first = None
    for path in paths:
        block = next(filter(len, files.blocks(path)), None)
        for place, row in block.parse() if block else ():
            invalid = UserError("invalid-row", place, "a row is an object with named fields")
            fault = row if isinstance(row, UserError) else invalid
            if isinstance(row, dict):
                try:
                    return recognition.complete(row, format, columns) if format else recognition.recognise(row, columns)
                except UserError as error:
                    fault = UserError(error.code, place, error.problem, error.hint)
            first = first or fault
    raise first or _no_rows(paths)


def _no_rows(paths: list[Path]) -> UserError:
    return UserError("no-rows", ", ".join(map(str, paths[:3])), "the file has no rows", "write at least one")


def parts(paths: list[Path], format: Format, limit: int | None, cores: int) -> Iterator[Part]:
    """The blocks of all files, normalised.

    Raises:
        UserError: a file as a whole cannot be read, or there is no row.
    """
    found = (block for path in paths for block in files.blocks(path))
    blocks = filter(len, _first(found, limit))
    first = next(blocks, None)
    if first is None:
        raise _no_rows(paths)
    blocks = chain([first], blocks)
    unknown: Counter[str] = Counter()
    if tree_of := FORMATS[format.name].tree_of:
        blocks = _of_trees(list(blocks), format, unknown)
        format = format._replace(name=tree_of, columns={})
    for part in ordered_map(partial(normalised, format=format), blocks, cores):
        part.unknown.update(unknown)
        unknown.clear()
        yield part


def _first(blocks: Iterator[Block], limit: int | None) -> Iterator[Block]:
    for block in blocks:
        if limit is not None and limit <= len(block):
            yield Block(block.file, block.numbers[:limit], block.rows[:limit])
            return
        yield block
        limit = limit and limit - len(block)


def _of_trees(blocks: list[Block], format: Format, unknown: Counter[str]) -> Iterator[Block]:
    """A table of messages as blocks of conversations, or of pairs; counts the messages' keys that are not read."""
    placed = [message for block in blocks for message in block.parse()]
    for _, message in placed:
        if isinstance(message, dict):
            unknown_keys.count(message, format.name, format.columns, unknown)
    found = [
        (*place.rsplit(" line ", 1), row) for place, row in message_trees.rows(placed, format.name, format.columns)
    ]
    for file, some in groupby(found, key=lambda item: item[0]):
        some = list(some)
        for start in range(0, len(some), BLOCK_ROWS):
            part = some[start : start + BLOCK_ROWS]
            yield Block(file, [int(number) for _, number, _ in part], [row for *_, row in part])


def normalised(block: Block, format: Format) -> Part:
    """A block's rows in their normal form, with what duplicates and splits are found by."""
    import pyarrow as pa

    kept, dropped = [], []
    unknown: Counter[str] = Counter()
    store = Store(format.images or Path(block.file).parent, format.folder)
    for i, (place, row) in enumerate(block.parse()):
        try:
            if isinstance(row, UserError):
                raise row
            kept.append(rows.normalise(row, format.name, format.columns, place, store))
            if format.system is not None:
                kept[-1] = rows.with_system(kept[-1], format.system)
            unknown_keys.count(row, format.name, format.columns, unknown)
        except UserError as error:
            raw = row if isinstance(row, dict | list) else block.rows[i]
            reason = " ".join(str(UserError(error.code, "", error.problem, error.hint)).split())[:SENTENCE]
            dropped.append({"place": place, "kind": "fault", "reason": reason, "row": _shown(raw)})
    ids = np.frombuffer(bytes.fromhex("".join(row["id"][:32] for row in kept)), "V16")
    groups = np.frombuffer(bytes.fromhex("".join(rows.group(row)[:16] for row in kept)), ">u8").astype(np.uint64)
    table = pa.Table.from_pylist(kept, schema=rows.schema(format.dataset_type))
    return Part(table, ids, groups, duplicates.row_hashes(kept), dropped, unknown)


def _shown(row: Any) -> str:
    if isinstance(row, bytes):
        return row[:SHOWN].decode("utf-8", "backslashreplace").strip()
    try:
        return json.dumps(row, default=_shown_value)[:SHOWN]
    except (RecursionError, ValueError, TypeError):
        return str(type(row))


def _shown_value(value: Any) -> str:
    return f"{len(value):,} bytes" if isinstance(value, bytes) else str(value)
