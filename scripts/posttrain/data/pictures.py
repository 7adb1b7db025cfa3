"""Pictures of a dataset's rows."""

from pathlib import Path
from typing import Any


def open_picture(file: Path) -> Any:
    """The picture in a file, decoded, in RGB."""
    from PIL import Image

    with Image.open(file) as image:
        return image.convert("RGB")
