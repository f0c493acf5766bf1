"""Pictures as people have them: all of them open as RGB, upright, over white, or say why they do not."""

import os
import zlib

import numpy as np
import pytest
from PIL import Image

from kddcup.io.errors import UserError
from kddcup.pictures.decode import BadPictureError, open_picture
from kddcup.report.photographs import read_photographs

RED, WHITE = (255, 0, 0), (255, 255, 255)


def corner(path):
    return open_picture(path).image.getpixel((0, 0))


def half_red():
    """8 wide, 4 high: its left half is red, the other white."""
    image = Image.new("RGB", (8, 4), "white")
    image.paste("red", (0, 0, 4, 4))
    return image


@pytest.mark.parametrize("suffix", ["png", "webp", "gif", "bmp", "tiff", "avif", "jpg"])
def test_every_format_is_read(tmp_path, suffix):
    path = tmp_path / f"p.{suffix}"
    half_red().resize((64, 32)).save(path)
    picture = open_picture(path)
    assert (picture.height, picture.width) == (32, 64)
    assert picture.image.mode == "RGB"
    found = np.asarray(picture.image).astype(int)
    assert np.abs(found[4:28, 4:28] - RED).max() < 16
    assert np.abs(found[4:28, 36:60] - WHITE).max() < 16


@pytest.mark.parametrize(
    ("orientation", "size", "place"),  # of the red half's outer corner
    [
        (1, (8, 4), (0, 0)),
        (2, (8, 4), (7, 0)),
        (3, (8, 4), (7, 3)),
        (4, (8, 4), (0, 3)),
        (5, (4, 8), (0, 0)),
        (6, (4, 8), (3, 0)),
        (7, (4, 8), (3, 7)),
        (8, (4, 8), (0, 7)),
    ],
)
def test_exif_turns_the_picture_and_its_size(tmp_path, orientation, size, place):
    exif = Image.Exif()
    exif[0x0112] = orientation
    half_red().save(tmp_path / "p.png", exif=exif)
    picture = open_picture(tmp_path / "p.png")
    assert picture.image.size == (picture.width, picture.height) == size
    opposite = (size[0] - 1 - place[0], size[1] - 1 - place[1])
    assert picture.image.getpixel(place) == RED
    assert picture.image.getpixel(opposite) == WHITE


def test_transparency_lies_over_white(tmp_path):
    Image.new("RGBA", (4, 4), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    Image.new("RGBA", (4, 4), (255, 0, 0, 128)).save(tmp_path / "half.png")
    Image.new("LA", (4, 4), (0, 0)).save(tmp_path / "grey.png")
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([0, 0, 0, 255, 0, 0])
    palette.save(tmp_path / "palette.png", transparency=0)
    assert corner(tmp_path / "clear.png") == corner(tmp_path / "grey.png") == WHITE
    assert corner(tmp_path / "palette.png") == WHITE
    assert corner(tmp_path / "half.png") == (255, 127, 127)


def test_palette(tmp_path):
    half_red().quantize(2).save(tmp_path / "p.gif")
    assert corner(tmp_path / "p.gif") == RED


@pytest.mark.parametrize("suffix", ["jpg", "tiff"])
def test_cmyk(tmp_path, suffix):
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / f"p.{suffix}")
    assert np.abs(np.subtract(corner(tmp_path / f"p.{suffix}"), RED)).max() < 4


@pytest.mark.parametrize(("value", "grey"), [(0, 0), (32896, 128), (65535, 255)])
@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_sixteen_bits_are_scaled_to_eight(tmp_path, suffix, value, grey):
    Image.fromarray(np.full((4, 4), value, np.uint16)).save(tmp_path / f"p.{suffix}")
    assert corner(tmp_path / f"p.{suffix}") == (grey,) * 3


def test_grey_and_black_and_white(tmp_path):
    Image.new("L", (4, 4), 70).save(tmp_path / "grey.png")
    Image.new("1", (4, 4), 1).save(tmp_path / "bits.png")
    assert corner(tmp_path / "grey.png") == (70, 70, 70)
    assert corner(tmp_path / "bits.png") == WHITE


@pytest.mark.parametrize("suffix", ["gif", "webp", "png", "tiff"])
def test_an_animation_shows_its_first_frame(tmp_path, suffix):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "green")]
    options = {"lossless": True} if suffix == "webp" else {}
    frames[0].save(tmp_path / f"p.{suffix}", save_all=True, append_images=frames[1:], **options)
    assert corner(tmp_path / f"p.{suffix}") == RED


def test_one_pixel(tmp_path):
    Image.new("RGB", (1, 1), "red").save(tmp_path / "p.png")
    picture = open_picture(tmp_path / "p.png", 256)
    assert (picture.height, picture.width, picture.image.getpixel((0, 0))) == (1, 1, RED)


def test_a_large_jpeg_is_decoded_smaller_but_keeps_its_size(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (2400, 1600), "red").save(tmp_path / "p.jpg", exif=exif)
    picture = open_picture(tmp_path / "p.jpg", 256)
    assert (picture.height, picture.width) == (2400, 1600)
    assert picture.image.size == (800, 1200)  # half of it, since a quarter has less than twice 256 pixels


def bomb(path):
    """A PNG of 20,000 × 20,000 pixels in a few bytes."""
    header = b"IHDR" + (20000).to_bytes(4, "big") * 2 + b"\x08\x02\0\0\0"
    empty = b"\0\0\0\0IDAT" + zlib.crc32(b"IDAT").to_bytes(4, "big")
    checksum = zlib.crc32(header).to_bytes(4, "big")
    path.write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0\r" + header + checksum + empty)


def torn(path):
    half_red().resize((640, 320)).save(path, "jpeg")
    path.write_bytes(path.read_bytes()[:2000])


BAD = {
    "an EPS": (lambda path: half_red().save(path, "eps"), "it is not a JPEG"),
    "a PPM": (lambda path: half_red().save(path, "ppm"), "it is not a JPEG"),
    "text": (lambda path: path.write_text("<svg/>"), "it is not a JPEG"),
    "nothing": (lambda path: path.write_bytes(b""), "it is not a JPEG"),
    "20,000 × 20,000": (bomb, "179 million pixels"),
    "half a JPEG": (torn, "truncated"),
    "a folder": (lambda path: path.mkdir(), "it is not a file"),
    "a pipe": (os.mkfifo, "it is not a file"),
    "no file": (lambda path: None, "No such file"),
    "fractions": (
        lambda path: Image.fromarray(np.ones((4, 4), np.float32)).save(path, "tiff"),
        "its pixels are fractions",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_picture_says_why(tmp_path, case):
    write, reason = BAD[case]
    path = tmp_path / "0.jpg"
    write(path)
    with pytest.raises(BadPictureError, match=reason):
        open_picture(path)


def test_the_page_opens_photographs_by_the_same_door(tmp_path):
    BAD["an EPS"][0](tmp_path / "0.jpg")
    with pytest.raises(UserError, match=r"0\.jpg cannot be read as an image \(it is not a JPEG"):
        read_photographs(tmp_path, {0})
