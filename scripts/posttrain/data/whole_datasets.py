"""All rows of a dataset, in the order of its files: those to train on, those that are held out and those that were left out."""

import heapq
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow.parquet as pq

from posttrain.data import rows
from posttrain.data.messages import Row
from posttrain.runtime.atomic import read_json

SPLITS = ("train.parquet", "validation.parquet")
DROPPED = "dropped.jsonl"
AT_ONCE = 1000  # rows that are read from each file at once


class WholeDataset:
    """A dataset as `data`, `mix` or `select` left it."""

    def __init__(self, folder: Path) -> None:
        """Look at what is in the dataset's folder."""
        self.folder, self.report = folder, read_json(folder / "data.json")
        self._ranks = {file: rank for rank, file in enumerate(self.report["files"])}
        # A mixture or a selection has not left out rows of its own, but rows of other datasets.
        self._left_out = _index(folder / DROPPED, self._key) if "fault" in self.report["dropped"] else []

    def __len__(self) -> int:
        """Number of rows."""
        counts = [pq.read_metadata(self.folder / file).num_rows for file in SPLITS]
        return sum(counts) + len(self._left_out)

    def __iter__(self) -> Iterator[Row]:
        """Each row in its normal form; of one that could not be read, its `place` and the `fault`.

        Rows are in the order of the files and of the lines in them; those of a mixture or a selection may not be.
        """
        sources = [*(self._split(self.folder / file) for file in SPLITS), self._others()]
        return heapq.merge(*sources, key=lambda row: self._key(row["place"]))

    def _split(self, file: Path) -> Iterator[Row]:
        for batch in rows.batches(file, AT_ONCE):
            yield from rows.without_nulls(batch.to_pylist())

    def _others(self) -> Iterator[Row]:
        if not self._left_out:
            return
        with (self.folder / DROPPED).open("rb") as file:
            for _, offset in self._left_out:
                file.seek(offset)
                line = json.loads(file.readline())
                is_fault = line["kind"] == "fault"
                yield {"place": line["place"], "fault": line["reason"]} if is_fault else rows.put_back(line)

    def _key(self, place: str) -> tuple[int, int]:
        """Where a place, `FILE line NUMBER`, stands among all."""
        file, _, number = place.rpartition(" line ")
        return self._ranks.get(file, len(self._ranks)), int(number) if number.isdigit() else 0


def _index(file: Path, key: Callable[[str], tuple[int, int]]) -> list[tuple[tuple[int, int], int]]:
    """Key of the place and first byte of each line of dropped.jsonl, in the order of the keys."""
    found, offset = [], 0
    with file.open("rb") as lines:
        for line in lines:
            found.append((key(json.loads(line)["place"]), offset))
            offset += len(line)
    return sorted(found)
