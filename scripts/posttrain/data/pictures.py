"""Pictures: checked when a dataset is read, decoded when a model looks at them; by Pillow.

Every picture becomes 8-bit RGB, upright as its EXIF orientation says. What is transparent is laid on white, 16 bits are cut to the
upper 8, and CMYK is converted without its colour profile. The header is looked at before anything is decoded: a file of a few
kilobytes can unpack to gigabytes (a decompression bomb).
"""

import contextlib
import io
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from posttrain.runtime.errors import UserError
from posttrain.runtime.hashes import read_named

# Pillow's names of formats, and the endings of their files; for EPS, pillow would start Ghostscript.
ENDINGS = {
    "PNG": "png",
    "JPEG": "jpg",
    "MPO": "jpg",
    "WEBP": "webp",
    "GIF": "gif",
    "BMP": "bmp",
    "TIFF": "tif",
    "PPM": "ppm",
}
FORMATS = tuple(kind for kind in ENDINGS if kind != "MPO")  # which are opened as JPEG
MODES = ("RGB", "L", "1", "P", "RGBA", "LA", "PA", "RGBX", "CMYK", "YCbCr", "I;16", "I;16B", "I;16L", "I")
DEEP = ("I", "I;16", "I;16B", "I;16L")  # 16 bits of grey
STILL = ("JPEG", "MPO")  # of several pictures in a telephone's JPEG, the others are small copies of the first
NAMED = re.compile("[0-9a-f]{64}")  # files in a dataset's folder
MAX_PIXELS = 1 << 26  # 67 megapixels: 200 MB decoded
MIN_SIDE = 4  # pixels; libraries take an array with a side of 1 or 3 for one with so many channels
MAX_RATIO = 200  # of the sides; Qwen's processor refuses more


class Picture(NamedTuple):
    """What a picture's file holds."""

    width: int
    height: int
    mode: str
    """Pillow's, see MODES"""
    kind: str
    """Pillow's name of its format, see ENDINGS"""


def check(file: Path) -> Picture:
    """Decode all of a picture, and say what its file holds.

    Raises:
        UserError: it is broken, too large or too small, animated, or of a mode that is not read; without a place.
    """
    with file.open("rb") as content, _in_a_sentence(str(file)):
        image = _opened(content, str(file))
        found = Picture(*image.size, image.mode, str(image.format))
        image.draft("L", (1, 1))  # JPEG can be decoded at an eighth of its size
        image.load()
    return found


def header(file: Path) -> Picture:
    """What the header of a checked picture says."""
    with file.open("rb") as content, _in_a_sentence(str(file)):
        image = _opened(content, str(file))
        return Picture(*image.size, image.mode, str(image.format))


def open_picture(file: Path) -> Any:
    """The picture in a file of a dataset's folder, decoded, upright and in RGB.

    Raises:
        UserError: the file is not what its name says, or is no picture.
    """
    with _in_a_sentence(str(file)):
        content = read_named(file) if NAMED.fullmatch(file.stem) else file.read_bytes()
        return rgb(_opened(io.BytesIO(content), str(file)))


def rgb(image: Any) -> Any:
    """A picture in 8-bit RGB, upright."""
    from PIL import Image, ImageOps

    if image.mode in DEEP:
        import numpy as np

        image = Image.fromarray((np.clip(np.asarray(image), 0, 65535) >> 8).astype(np.uint8))
    image = ImageOps.exif_transpose(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


@contextlib.contextmanager
def _in_a_sentence(name: str) -> Iterator[None]:
    """What Pillow says of a file, as a UserError."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pictures that are refused here, and of broken EXIF
            yield
    except (UserError, MemoryError):
        raise
    except Image.DecompressionBombError:
        raise _refused(name, f"has more than {MAX_PIXELS:,} pixels", "scale it down") from None
    except Exception:  # a broken file makes its decoders raise OSError, SyntaxError, struct.error, IndexError, ...
        raise _refused(name, "cannot be read as an image", "replace it") from None


def _opened(content: Any, name: str) -> Any:
    """A picture of which only the header was read.

    Args:
        content: a file of bytes.
    """
    from PIL import Image

    image = Image.open(content, formats=FORMATS)
    _check_header(image, name)
    return image


def _check_header(image: Any, name: str) -> None:
    width, height = image.size
    said = f"{width:,} x {height:,} pixels"
    if width * height > MAX_PIXELS:
        raise _refused(name, f"has {said}, more than {MAX_PIXELS:,} in all", "scale it down")
    if min(width, height) < MIN_SIDE:
        raise _refused(name, f"has {said}, and a side has at least {MIN_SIDE}", "take the row out")
    if max(width, height) > MAX_RATIO * min(width, height):
        raise _refused(name, f"has {said}: one side is more than {MAX_RATIO} times the other", "cut it")
    if image.mode not in MODES:
        raise _refused(name, f"is of Pillow's mode {image.mode}", "save it as RGB")
    if image.format not in STILL and getattr(image, "is_animated", False):
        raise _refused(name, "has several frames, and a model looks at one", "save the one that is meant")


def _refused(name: str, problem: str, hint: str) -> UserError:
    return UserError("unreadable-image", "", f"'{name}' {problem}", hint)
