"""Tiny vision-language bases and rows about drawn pictures, for tests."""

from argparse import Namespace
from pathlib import Path
from typing import Any

FAMILIES = ("idefics3", "llava")
NUMBERS = ("one", "two", "three")


def rows(folder: Path, count: int = 6) -> list[dict]:
    """Normalised rows, each about a picture of one to three circles that is written to `folder`; the last one has no picture."""
    from PIL import Image, ImageDraw

    (folder / "media").mkdir(parents=True, exist_ok=True)
    found = []
    for i in range(count):
        image = Image.new("RGB", (60, 40), "white")
        for k in range(i % 3 + 1):
            ImageDraw.Draw(image).ellipse((20 * k + 2, 5 + i, 20 * k + 16, 19 + i), fill="red")
        name = f"media/{i}.png"
        image.save(folder / name)
        asked = [] if i + 1 == count else [name]
        turns = [
            {"role": "user", "content": "<image>" * len(asked) + "How many red circles?"},
            {"role": "assistant", "content": NUMBERS[i % 3]},
        ]
        found.append({"id": f"row {i}", "place": f"line {i}", "messages": turns, "images": asked})
    return found


def base(folder: Path, family: str, **spec: Any) -> Path:
    """A base as scripts/make_base.py makes it at random; returns its folder of a model."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    import make_base
    from posttrain.runtime import atomic

    table = [{"id": str(i), "text": "How many red circles? one two three user assistant"} for i in range(20)]
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(table), folder / "text.parquet")
    sizes = {"hidden_size": 32, "layers": 2, "heads": 2, "vocab_size": 320, "seed": 1}
    atomic.write_json(folder / "spec.json", {"source": "random", "family": family, **sizes, **spec})
    make_base.main(Namespace(spec=folder / "spec.json", text=folder / "text.parquet", whole=None, output=folder))
    return folder / "model"


def tokens(folder: Path, model: Path, data: Path, normalised: list[dict], max_length: int = 128) -> dict:
    """Write the folder of tokens of rows as scripts/tokenize_data.py does, the first two held out; returns its report."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    import tokenize_data
    from posttrain.data import rows as data_rows
    from posttrain.runtime import atomic

    for split, part in (("train", normalised), ("validation", normalised[:2])):
        table = pa.Table.from_pylist(part, schema=data_rows.schema("image_messages"))
        pq.write_table(table, data / f"{split}.parquet")
    atomic.write_json(data / "data.json", {"shape": "image_messages"})
    given = {"assistant_turns": "all", "train_thoughts": "true", "cores": 1}
    tokenize_data.main(Namespace(data=data, model=model, max_length=max_length, output=folder, **given))
    return atomic.read_json(folder / "report.json")
