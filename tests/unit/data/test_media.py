"""Pictures of rows: where they may come from, what becomes of their modes, and files that are broken or made to fill a memory."""

import base64
import io
import random
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from posttrain.data import media, pictures
from posttrain.data.media import Store
from posttrain.data.rows import normalise
from posttrain.runtime.errors import UserError
from posttrain.runtime.hashes import sha256


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    image.save(file := io.BytesIO(), kind, **options)
    return file.getvalue()


RED = encoded(Image.new("RGB", (8, 8), "red"))
ADDRESS = f"data:image/png;base64,{base64.b64encode(RED).decode()}"


@pytest.fixture
def store(tmp_path) -> Store:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/red.png").write_bytes(RED)
    return Store(tmp_path / "mine", tmp_path / "data")


def names(store: Store, content, **fields) -> list[str]:
    turns = [{"role": "user", "content": content}, {"role": "assistant", "content": "a"}]
    return normalise({"messages": turns, **fields}, "llava", {}, "x line 1", store)["images"]


# ---- where files come from

PARTS = [
    {"type": "image_url", "image_url": {"url": ADDRESS}},
    {"type": "image_url", "image_url": {"url": "red.png", "detail": "low"}},
    {"type": "image_url", "image_url": ADDRESS},
    {"type": "input_image", "image_url": ADDRESS},
    {"type": "image", "image": "red.png"},
    {"type": "image", "path": "red.png", "text": None},
    {"type": "image", "url": "red.png"},
    {"type": "image", "image": {"bytes": RED, "path": None}},
]


@pytest.mark.parametrize("part", PARTS)
def test_a_part_and_a_column_give_the_same_row(store, part):
    parts = [part, {"type": "text", "text": "What colour?"}]
    turns = [{"role": "user", "content": parts}, {"role": "assistant", "content": "a"}]
    row = normalise({"messages": turns}, "llava", {}, "x line 1", store)
    assert row["messages"][0]["content"] == "<image>What colour?"
    for value in ("red.png", ["red.png"], RED, {"bytes": RED, "path": "x.png"}, [{"path": "red.png"}]):
        turns[0]["content"] = "<image>What colour?"
        same = normalise({"messages": turns, "images": value}, "llava", {}, "x line 1", store)
        assert (same["id"], same["images"]) == (row["id"], row["images"])
    assert media.read(store.folder, row["images"][0]) == RED


def test_parts_without_a_file_and_marks_take_the_columns_files_in_turn(store):
    (store.sources / "blue.png").write_bytes(blue := encoded(Image.new("RGB", (8, 8), "blue")))
    content = ["<image> or", {"type": "image"}, {"type": "image", "image": RED}]
    found = names(store, content, images=["red.png", "blue.png"])
    assert [media.read(store.folder, name) for name in found] == [RED, blue, RED]


def test_a_row_without_pictures_is_one_of_its_dataset(store):
    for fields in ({}, {"images": None}, {"images": []}):
        assert names(store, "What?", **fields) == []


def test_a_file_is_linked_to_and_one_that_was_edited_in_place_is_noticed(store):
    name = names(store, "<image>", image="red.png")[0]
    file = store.folder / name
    assert file.samefile(store.sources / "red.png")
    (store.sources / "red.png").write_bytes(encoded(Image.new("RGB", (8, 8), "blue")))
    for read in (pictures.open_picture, lambda file: media.read(store.folder, name)):
        with pytest.raises(UserError, match="its content is not what it was when the dataset was read"):
            read(file)


def test_what_no_row_names_is_removed(store):
    name = names(store, "<image>", image="red.png")[0]
    (store.folder / "media/other.png").write_bytes(RED)
    media.prune(store.folder, {name})
    assert [file.name for file in (store.folder / "media").iterdir()] == [Path(name).name]
    media.prune(store.folder, set())
    assert not (store.folder / "media").exists()


def test_a_refused_picture_leaves_no_file(store):
    with pytest.raises(UserError, match="image 1 of the row cannot be read as an image"):
        names(store, "<image>", image=b"no picture")
    assert list((store.folder / "media").iterdir()) == []


# ---- modes

MODES = {
    "grey": (Image.new("L", (8, 8), 100), "PNG", (100, 100, 100)),
    "two colours": (Image.new("1", (8, 8), 1), "PNG", (255, 255, 255)),
    "palette": (Image.new("RGB", (8, 8), "red").convert("P"), "GIF", (255, 0, 0)),
    "transparent is white": (Image.new("RGBA", (8, 8), (255, 0, 0, 0)), "PNG", (255, 255, 255)),
    "half transparent": (Image.new("RGBA", (8, 8), (255, 0, 0, 51)), "PNG", (255, 204, 204)),
    "16 bits": (Image.fromarray(np.full((8, 8), 40_000, np.uint16)), "PNG", (156, 156, 156)),
    "CMYK": (Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "TIFF", (255, 0, 0)),
}


@pytest.mark.parametrize("name", MODES)
def test_every_mode_becomes_rgb(tmp_path, name):
    image, kind, colour = MODES[name]
    file = tmp_path / "x"
    file.write_bytes(encoded(image, kind))
    pictures.check(file)
    seen = pictures.open_picture(file)
    assert (seen.mode, seen.size) == ("RGB", (8, 8))
    assert seen.getpixel((4, 4)) == colour


def test_a_palette_with_a_transparent_colour_is_laid_on_white(tmp_path):
    image = Image.new("P", (8, 8), 1)
    image.putpalette([0, 0, 0, 0, 0, 255])
    (tmp_path / "x").write_bytes(encoded(image, "PNG", transparency=1))
    assert pictures.open_picture(tmp_path / "x").getpixel((0, 0)) == (255, 255, 255)


def test_a_telephones_photograph_is_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    (tmp_path / "x").write_bytes(encoded(Image.new("RGB", (32, 16)), "JPEG", exif=exif))
    assert pictures.open_picture(tmp_path / "x").size == (16, 32)


# ---- broken files


def test_a_real_decompression_bomb_is_refused_by_its_header(tmp_path):
    """A PNG file of some kilobytes, whole in every respect, that would take 300 MB."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    side = 10_000
    packer = zlib.compressobj(9)
    lines = b"".join(packer.compress(bytes(1 + side // 8)) for _ in range(side)) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    file = tmp_path / "bomb.png"
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", lines) + chunk(b"IEND", b""))
    assert file.stat().st_size < 20_000
    with pytest.raises(UserError, match=r"has 10,000 x 10,000 pixels, more than 67,108,864 in all; scale it down"):
        pictures.check(file)


KINDS = {"PNG": {}, "JPEG": {}, "GIF": {}, "WEBP": {}, "BMP": {}, "TIFF": {"compression": "tiff_lzw"}, "PPM": {}}


@pytest.mark.parametrize("kind", KINDS)
def test_a_broken_file_is_one_sentence_or_a_picture(tmp_path, kind):
    """Cut, and with bytes changed: nothing but a UserError comes out, and what is accepted can be opened."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (24, 24, 3), np.uint8))
    whole, draw, file = encoded(image, kind, **KINDS[kind]), random.Random(0), tmp_path / "x"
    refused = 0
    for i in range(120):
        content = bytearray(whole[: draw.randrange(len(whole))] if i % 3 == 0 else whole)
        for _ in range(draw.randint(1, 8) if i % 3 else 0):
            content[draw.randrange(min(len(content), 200 if i % 3 == 1 else len(content)))] = draw.randrange(256)
        file.write_bytes(content)
        try:
            pictures.check(file)
        except UserError as error:
            assert "\n" not in str(error)
            refused += 1
        else:
            assert pictures.open_picture(file).mode == "RGB"
    assert refused >= 40


def test_the_name_is_the_hash(store):
    assert names(store, "<image>", image="red.png") == [f"media/{sha256(store.sources / 'red.png')}.png"]
