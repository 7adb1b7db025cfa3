"""Pictures beside the answers: small, without transparency, and within the page."""

import base64
import io

from PIL import Image

from posttrain.reports import thumbnails


def opened(address: str) -> Image.Image:
    head, _, body = address.partition(",")
    assert head == "data:image/jpeg;base64"
    return Image.open(io.BytesIO(base64.b64decode(body)))


def test_a_picture_is_made_small_and_keeps_its_shape_and_its_colours(tmp_path):
    Image.new("RGB", (640, 320), "red").save(tmp_path / "wide.jpg")
    Image.new("RGBA", (20, 40), (0, 0, 255, 0)).save(tmp_path / "clear.png")
    Image.new("P", (8, 8)).save(tmp_path / "palette.gif")
    wide, clear, palette = map(opened, thumbnails.of(["wide.jpg", "clear.png", "palette.gif"], tmp_path))
    assert wide.size == (160, 80) and wide.getpixel((80, 40))[0] > 240 > 20 > wide.getpixel((80, 40))[1]
    assert clear.size == (20, 40) and min(clear.getpixel((10, 20))) > 250  # nothing of the colour behind
    assert palette.size == (8, 8)


def test_a_picture_that_is_gone_and_a_row_without_any_are_no_fault(tmp_path):
    assert thumbnails.of(["media/gone.png"], tmp_path) == thumbnails.of(None, tmp_path) == []
    Image.new("L", (4, 4)).save(tmp_path / "a.png")
    assert len(thumbnails.of(["a.png"] * 9, tmp_path)) == 4
