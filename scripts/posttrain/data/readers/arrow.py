"""Arrow files and streams; `datasets` writes streams, under the same ending."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from posttrain.data.readers.blocks import Block, table_blocks
from posttrain.data.readers.text import COMPRESSED, open_file

FILE_BEGIN, STREAM_END = b"ARROW1\0\0", b"\xff\xff\xff\xff\0\0\0\0"


def read(path: Path) -> Iterator[Block]:
    """The blocks of a file."""
    import pyarrow as pa

    def batches() -> Iterable[Any]:
        if path.suffix in COMPRESSED:
            packed = open_file(path)
            packed.read(len(FILE_BEGIN) if packed.peek(1).startswith(FILE_BEGIN) else 0)  # a stream follows
            return pa.ipc.open_stream(packed)
        mapped = pa.memory_map(str(path))
        try:
            reader = pa.ipc.open_file(mapped)
        except pa.ArrowInvalid:  # a stream, without the index of a file
            stream = pa.ipc.open_stream(pa.memory_map(str(path)))
            mapped.seek(mapped.size() - len(STREAM_END))
            if mapped.read() != STREAM_END:  # one that is cut between two batches reads like a whole one
                raise pa.ArrowInvalid("the end of the stream is missing") from None
            return stream
        return (reader.get_batch(i) for i in range(reader.num_record_batches))

    yield from table_blocks(path, batches, "an Arrow")
