"""Small copies of the pictures that examples are about, within a page that needs no other file."""

import base64
import io
from functools import lru_cache
from pathlib import Path

from posttrain.data.pictures import rgb

EDGE = 160  # pixels of the longer side
MOST = 4  # pictures of an example


def of(names: list[str] | None, folder: Path) -> list[str]:
    """`data:` addresses of the first pictures of a row; one that is gone is left out.

    Args:
        names: relative to `folder`, the dataset's.
    """
    files = [folder / name for name in names or ()]
    return [_copy(file) for file in files[:MOST] if file.exists()]


@lru_cache(maxsize=256)  # each model of a report is asked about the same pictures
def _copy(file: Path) -> str:
    from PIL import Image

    with Image.open(file) as image:
        image.draft("RGB", (EDGE, EDGE))  # JPEG can be decoded at an eighth of its size
        small = rgb(image)
    small.thumbnail((EDGE, EDGE))
    out = io.BytesIO()
    small.save(out, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(out.getvalue()).decode()}"
