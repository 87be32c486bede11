"""Decoding, framing and resizing of single pictures."""

import io

import numpy as np
import pytest
from PIL import Image

from psld.data.picture import (
    FILTERS,
    BrokenPicture,
    central_square,
    decode,
    to_channels,
    to_pixels,
)
from psld.utils.errors import UserError
from tests.data.formats import encode, random_images


def test_box_filter_is_the_mean_of_each_cell():
    pixels = random_images(32, 32)
    resized = to_pixels(Image.fromarray(pixels), 1, 8, "box")
    mean = pixels.reshape(8, 4, 8, 4).mean(axis=(1, 3))
    assert np.abs(resized[0] - mean).max() <= 1


@pytest.mark.parametrize("name", FILTERS)
def test_resizing_is_antialiased(name):
    """Stripes finer than the new grid become their mean; without antialiasing they would not."""
    stripes = np.zeros((64, 64), dtype=np.uint8)
    stripes[:, ::2] = 255
    resized = to_pixels(Image.fromarray(stripes), 1, 8, name)
    assert np.abs(resized[:, :, 1:-1].astype(int) - 127).max() <= 2


def test_channels_come_first_and_in_order():
    pixels = random_images(5, 5, 3)
    np.testing.assert_array_equal(
        to_pixels(Image.fromarray(pixels), 3, 5, None), pixels.transpose(2, 0, 1)
    )


def test_another_size_needs_a_filter():
    with pytest.raises(UserError, match=r"images are 5×4 but dataset\.image_size is 8.*lanczos"):
        to_pixels(Image.fromarray(random_images(4, 5)), 1, 8, None)


def test_gray_and_rgb():
    grey = Image.fromarray(random_images(4, 4))
    np.testing.assert_array_equal(to_pixels(grey, 3, 4, None), np.tile(np.asarray(grey), (3, 1, 1)))
    green = Image.new("RGB", (1, 1), (0, 255, 0))
    assert to_pixels(green, 1, 1, None) == round(0.587 * 255)


def test_transparent_pixels_lie_on_white():
    image = Image.new("RGBA", (2, 1), (10, 20, 30, 0))
    image.putpixel((1, 0), (10, 20, 30, 255))
    flat = to_channels(image, 3)
    assert [flat.getpixel((i, 0)) for i in (0, 1)] == [(255, 255, 255), (10, 20, 30)]


def test_central_square():
    pixels = random_images(7, 4)
    np.testing.assert_array_equal(central_square(Image.fromarray(pixels)), pixels[1:5])
    np.testing.assert_array_equal(central_square(Image.fromarray(pixels), 2), pixels[2:4, 1:3])


def test_pictures_are_turned_upright():
    stream = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(random_images(4, 8)).save(stream, "png", exif=exif)
    assert decode(stream.getvalue(), "x").size == (4, 8)


@pytest.mark.parametrize("kind", ["png", "jpeg"])
def test_a_picture_cut_short_is_broken(kind):
    data = encode(random_images(64, 64, 3), kind)
    with pytest.raises(BrokenPicture, match=r"faces/1: broken picture"):
        decode(data[: len(data) // 2], "faces/1")


def test_text_is_refused_as_a_picture():
    with pytest.raises(BrokenPicture, match=r"\(not a picture\)"):
        decode(b"no picture at all", "x")
