"""Decode, crop and resize single pictures."""

import io
import struct
import time
import zlib
from typing import get_args

import numpy as np
import pytest
from PIL import Image

from psld.data import images as reading
from psld.data.images import central_square, decode, save_images, to_channels
from psld.data.preparation import conversions, to_pixels
from psld.data.settings import FilterName
from psld.utils.errors import UserError
from tests.data.formats import random_images


def test_box_filter_is_the_mean_of_each_cell():
    pixels = random_images(32, 32)
    resized = to_pixels(Image.fromarray(pixels), (1, 8, 8), "box")
    mean = pixels.reshape(8, 4, 8, 4).mean(axis=(1, 3))
    assert np.abs(resized[0] - mean).max() <= 1


@pytest.mark.parametrize("name", get_args(FilterName))
def test_resizing_is_antialiased(name):
    """Stripes that are narrower than a new pixel become their mean, which needs antialiasing."""
    stripes = np.zeros((64, 64), dtype=np.uint8)
    stripes[:, ::2] = 255
    resized = to_pixels(Image.fromarray(stripes), (1, 8, 8), name)
    assert np.abs(resized[:, :, 1:-1].astype(int) - 127).max() <= 2


def test_channels_come_first_and_in_order():
    pixels = random_images(5, 5, 3)
    np.testing.assert_array_equal(
        to_pixels(Image.fromarray(pixels), (3, 5, 5), None), pixels.transpose(2, 0, 1)
    )


def test_another_size_needs_a_filter():
    with pytest.raises(UserError, match=r"images are 5×4 but dataset\.image_size is 8.*lanczos"):
        to_pixels(Image.fromarray(random_images(4, 5)), (1, 8, 8), None)


def test_a_picture_with_one_side_that_is_too_short_is_enlarged():
    enlarged = "smaller than 8×8, enlarged"
    for size, said in (((4, 20), [enlarged]), ((20, 7), [enlarged]), ((8, 20), [])):
        assert list(conversions(Image.new("RGB", size), (3, 8, 8))) == said
    assert list(conversions(Image.new("RGB", (8, 8)), (1, 8, 8))) == ["colored, made gray"]


def test_gray_and_rgb():
    grey = Image.fromarray(random_images(4, 4))
    np.testing.assert_array_equal(
        to_pixels(grey, (3, 4, 4), None), np.tile(np.asarray(grey), (3, 1, 1))
    )
    green = Image.new("RGB", (1, 1), (0, 255, 0))
    assert to_pixels(green, (1, 1, 1), None) == round(0.587 * 255)


def test_transparent_pixels_lie_on_white():
    image = Image.new("RGBA", (2, 1), (10, 20, 30, 0))
    image.putpixel((1, 0), (10, 20, 30, 255))
    flat = to_channels(image, 3)
    assert [flat.getpixel((i, 0)) for i in (0, 1)] == [(255, 255, 255), (10, 20, 30)]


def test_central_square():
    pixels = random_images(7, 4)
    np.testing.assert_array_equal(central_square(Image.fromarray(pixels)), pixels[1:5])
    np.testing.assert_array_equal(central_square(Image.fromarray(pixels), 2), pixels[2:4, 1:3])


def test_pictures_are_rotated_by_their_exif_orientation():
    stream = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(random_images(4, 8)).save(stream, "png", exif=exif)
    assert decode(stream.getvalue(), "x").size == (4, 8)


def png(width: int, height: int) -> bytes:
    """Return a PNG whose header has this size, almost without pixels."""

    def chunk(name: bytes, content: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + checksum

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    end = chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + end


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (png(100_000, 100_000), "Image size .10000000000 pixels. exceeds"),
        (png(2**31 - 1, 2**31 - 1), ""),
        (png(100, 100), "image file is truncated"),
        (b"no picture at all", "not a picture"),
    ],
)
def test_a_picture_that_cannot_be_decoded_is_broken(data, reason):
    with pytest.raises(UserError, match=rf"^faces/1: broken picture \({reason}"):
        decode(data, "faces/1")


@pytest.mark.parametrize("kind", ["png", "tiff"])
def test_the_upper_half_of_16_bits_is_read(kind):
    pixels = np.array([[0, 255, 256], [4660, 65280, 65535]], np.uint16)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    image = to_channels(decode(stream.getvalue(), "x"), 1)
    np.testing.assert_array_equal(np.asarray(image), [[0, 0, 1], [0x12, 255, 255]])


def test_a_mode_that_would_be_clipped_is_refused():
    stream = io.BytesIO()
    Image.new("F", (8, 8)).save(stream, "tiff")
    with pytest.raises(UserError, match=r"x: broken picture .mode F, not 8 bits"):
        decode(stream.getvalue(), "x")


@pytest.mark.parametrize("kind", ["png", "gif"])
def test_an_animation_is_its_first_frame(kind):
    frames = [Image.new("RGB", (8, 8), color) for color in ((255, 0, 0), (0, 255, 0))]
    stream = io.BytesIO()
    frames[0].save(stream, kind, save_all=True, append_images=frames[1:])
    shown = to_channels(decode(stream.getvalue(), "x"), 3)
    assert (np.asarray(shown) == [255, 0, 0]).all()


def test_a_picture_of_another_size_ends_the_reading(tmp_path, monkeypatch):
    """The error is raised as soon as the pictures that are already being read are finished."""
    save_images(np.zeros((60, 1, 8, 8), np.uint8), tmp_path / "pictures")
    Image.new("L", (9, 8)).save(tmp_path / "pictures/00001.png")
    read = []

    def to_channels(image, channels):
        read.append(image)
        time.sleep(0.01)
        return image

    monkeypatch.setattr(reading, "to_channels", to_channels)
    with pytest.raises(
        UserError, match=r"00000.png is 8×8 pixels .width×height., 00001.png is 9×8"
    ):
        reading.read_images(tmp_path / "pictures")
    assert len(read) < 30
