"""Which held-out rows a model is measured on, and where each comes from.

The sample is the same for every model: rows by the hash of their id, each origin (the dataset of a mixture, the file of a
dataset) with its share of the rows. A smaller sample is the beginning of a larger one.
"""

import hashlib
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from itertools import chain, repeat
from pathlib import Path

from posttrain.data import rows
from posttrain.data.messages import Row
from posttrain.runtime.atomic import read_json

ANSWERS = 5  # that are generated of every dataset of conversations, to be read side by side
BLOCK = 10_000  # rows that are looked at at once


def chosen(names: Sequence[str], strata: Sequence[Hashable], limit: int | None = None) -> list[int]:
    """Places of at most `limit` of n rows: in each stratum by the hash of the name, between strata in turn by their sizes.

    The first k places are what a limit of k chooses, so no more than one row of a stratum is missing or too many.

    Args:
        names: n ids; those of one conversation, `{id}.{k}`, stay together.
        strata: n origins.
    """
    sizes, ranks = Counter(strata), Counter()
    keys = {}
    for digest, k, i in sorted((*_hash(name), i) for i, name in enumerate(names)):
        keys[i] = ((ranks[strata[i]] + 0.5) / sizes[strata[i]], digest, k)
        ranks[strata[i]] += 1
    return sorted(keys, key=keys.__getitem__)[:limit]


def _hash(name: str) -> tuple[str, int]:
    whole, _, answer = name.partition(".")
    return hashlib.sha256(f"evaluation {whole}".encode()).hexdigest(), int(answer) if answer.isdigit() else 0


def conversation(name: str) -> str:
    """The id of the row that a training row `{id}.{k}` is a part of."""
    return name.partition(".")[0]


def pick(file: Path, ids: Iterable[str]) -> list[Row]:
    """The rows of a Parquet file with these ids, in the order of the file, of which little is held in memory at once."""
    import pyarrow as pa
    import pyarrow.compute as pc

    wanted = pa.array(dict.fromkeys(ids), pa.string())
    batches = (batch.filter(pc.is_in(batch["id"], wanted)) for batch in rows.batches(file, BLOCK))
    return [row for batch in batches for row in batch.to_pylist()]


class HeldOut:
    """The held-out rows of a dataset, as `data` or `mix` left them."""

    def __init__(self, folder: Path) -> None:
        """Read their ids and where they come from; `folder` is the dataset's."""
        import pyarrow.parquet as pq

        self.file = folder / "validation.parquet"
        table = pq.read_table(self.file, columns=["id", "place"])
        self.ids: list[str] = table["id"].to_pylist()
        counts = read_json(folder / "data.json").get("parts", {})
        names = chain.from_iterable(repeat(part, count["validation"]) for part, count in counts.items())
        parts = list(names) or [None] * len(self.ids)
        files = [place.rpartition(" line ")[0] for place in table["place"].to_pylist()]
        self._origins = dict(zip(self.ids, zip(parts, files, strict=True), strict=True))

    def sample(self, names: Sequence[str], limit: int | None = None) -> list[int]:
        """Places of at most `limit` of the rows with these names, see `chosen`."""
        return chosen(names, [self._origins[conversation(name)] for name in names], limit)

    def read(self, names: Iterable[str]) -> dict[str, Row]:
        """The normalised rows with these names, by their ids."""
        return {row["id"]: row for row in rows.without_nulls(pick(self.file, map(conversation, names)))}

    def example(self, name: str, row: Row) -> Row:
        """The columns that say where an example comes from: `id`, the group of rows that share a prompt, the part of a mixture."""
        part, _ = self._origins[conversation(name)]
        return {"id": name, "prompt_group": rows.group(row)} | ({"part": part} if part else {})
