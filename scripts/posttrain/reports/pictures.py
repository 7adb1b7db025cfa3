"""What a data page says of pictures: how many, how large, of which modes, and the first of them in small."""

import os
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from posttrain.data import dataset_types, pictures, rows
from posttrain.reports import thumbnails

COLUMN = "images"
FIRST = 8  # rows whose pictures are shown


def summary(splits: list[Path]) -> dict[str, Any] | None:
    """Numbers on all pictures of a dataset's splits, and the first rows with theirs; None where its type has none.

    Args:
        splits: Parquet files of normalised rows, beside which the pictures lie.
    """
    if COLUMN not in pq.read_schema(splits[0]).names:
        return None
    counts: Counter[Path] = Counter()
    without = 0
    first: list[dict[str, Any]] = []
    for split in splits:
        for batch in rows.batches(split, 512):
            for row in batch.to_pylist():
                counts.update(split.parent / name for name in row[COLUMN])
                without += not row[COLUMN]
                if row[COLUMN] and len(first) < FIRST:
                    first.append(_shown(row, split.parent))
    held = [pictures.header(file) for file in counts]
    areas = sorted(held, key=lambda picture: picture.width * picture.height)
    return {
        "pictures": counts.total(),
        "files": len(counts),
        "bytes": sum(os.stat(file).st_size for file in counts),  # noqa: PTH116 (half the time of Path's)
        "rows_without": without,
        "sizes": [[picture.width, picture.height] for picture in areas[:: max(1, len(areas) - 1)][:2]] if areas else [],
        "median": [areas[len(areas) // 2].width, areas[len(areas) // 2].height] if areas else None,
        "modes": dict(Counter(picture.mode for picture in held).most_common()),
        "kinds": dict(Counter(picture.kind for picture in held).most_common()),
        "first": first,
    }


def _shown(row: dict[str, Any], folder: Path) -> dict[str, Any]:
    held = [pictures.header(folder / name) for name in row[COLUMN][: thumbnails.MOST]]
    return {
        "place": row["place"],
        "text": dataset_types.of(row).text(row),
        "sizes": [f"{picture.width} x {picture.height}, {picture.mode}" for picture in held],
        "thumbnails": thumbnails.of(row[COLUMN], folder),
        "more": max(0, len(row[COLUMN]) - thumbnails.MOST),
    }
