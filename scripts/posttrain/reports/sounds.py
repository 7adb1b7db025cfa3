"""What a data page says of sound files: how long, at which rate, and the first of them to listen to."""

import base64
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from posttrain.data import dataset_types, rows, sounds

COLUMN = "audios"
FIRST = 5  # rows that can be listened to
SMALL = 100_000  # bytes of a file that a page may contain
KINDS = {"WAV": "wav", "WAVEX": "wav", "FLAC": "flac", "OGG": "ogg", "MP3": "mpeg"}


def summary(splits: list[Path]) -> dict[str, Any] | None:
    """Numbers on all sound files of a dataset's splits, and the first rows with theirs; None where its type has none.

    Args:
        splits: Parquet files of normalised rows, beside which the files lie.
    """
    if COLUMN not in pq.read_schema(splits[0]).names:
        return None
    lengths, rates, channels = [], Counter(), Counter()
    first: list[dict[str, Any]] = []
    for split in splits:
        for batch in rows.batches(split, 512):
            for row in batch.to_pylist():
                held = [sounds.header(split.parent / name) for name in row[COLUMN]]
                lengths += [sound.seconds for sound in held]
                rates.update(sound.rate for sound in held)
                channels.update(sound.channels for sound in held)
                if held and len(first) < FIRST:
                    first.append(_shown(row, split.parent, held))
    return {
        "files": len(lengths),
        "seconds": round(sum(lengths), 1),
        "shortest": round(min(lengths, default=0), 2),
        "longest": round(max(lengths, default=0), 2),
        "rates": {str(rate): n for rate, n in sorted(rates.items())},
        "channels": {str(count): n for count, n in sorted(channels.items())},
        "first": first,
    }


def _shown(row: dict[str, Any], folder: Path, held: list[sounds.Sound]) -> dict[str, Any]:
    files = [
        {
            "seconds": round(sound.seconds, 2),
            "rate": sound.rate,
            "channels": sound.channels,
            "player": _player(folder / name, sound.kind),
        }
        for name, sound in zip(row[COLUMN], held, strict=True)
    ]
    return {"place": row["place"], "text": dataset_types.of(row).text(row), "files": files}


def _player(file: Path, kind: str) -> str | None:
    """A small file as a `data:` address; None of one that is not."""
    if file.stat().st_size > SMALL or kind not in KINDS:
        return None
    return f"data:audio/{KINDS[kind]};base64,{base64.b64encode(file.read_bytes()).decode()}"
