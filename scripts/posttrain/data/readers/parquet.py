"""Parquet files."""

import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from posttrain.data.readers.blocks import Block, rows_of, table_blocks
from posttrain.data.readers.text import CHUNK_BYTES, max_unpacked, open_file, too_large


def read(path: Path) -> Iterator[Block]:
    """The blocks of a file."""
    import pyarrow.parquet as pq

    with open_file(path) as file:
        source = file if path.suffix == ".parquet" else io.BytesIO(file.read())
        options = {"pre_buffer": False, "buffer_size": CHUNK_BYTES}  # else the whole file is in memory by the end

        def batches() -> Iterable[Any]:
            table = pq.ParquetFile(source, **options)
            groups = [table.metadata.row_group(i) for i in range(table.num_row_groups)]
            if sum(group.total_byte_size for group in groups) > max_unpacked(path):
                raise too_large(path)
            largest = max((group.total_byte_size // max(1, group.num_rows) for group in groups), default=0)
            return table.iter_batches(rows_of(largest))

        yield from table_blocks(path, batches, "a Parquet")
