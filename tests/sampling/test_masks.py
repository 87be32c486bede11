"""Masks: mask i depends only on its settings and i, and has the requested hole."""

import numpy as np
import pytest
from PIL import Image

from psld.data.store import write_store
from psld.diffusion.samplers import DigitsMask, HalvesMask
from psld.sampling.inpainting import draw_masks, masks_digest

HALVES = HalvesMask(kind="halves", missing="cycle")
DIGITS = DigitsMask(kind="digits")


def image_of_digits(count: int) -> np.ndarray:
    """Strokes, some of them faint, on a background of zeros; uint8 n×28×28."""
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (count, 28, 28), dtype=np.uint8)
    return np.where(random.random(pixels.shape) < 0.5, pixels, 0).astype(np.uint8)


@pytest.fixture(scope="module")
def mnist(tmp_path_factory):
    """A prepared dataset of the shape of MNIST: six training digits, one to test."""
    path = tmp_path_factory.mktemp("mnist") / "mnist.h5"
    images = image_of_digits(7)[:, None]
    write_store(path, (1, 28, 28), {"train": 6, "test": 1}, np.zeros(7, np.int64), 10, [images])
    return path


def test_a_mask_is_the_same_in_every_shard(mnist):
    for settings in (HALVES, DIGITS):
        whole = draw_masks(settings, range(5), 16, mnist)
        assert (whole.shape, whole.dtype) == ((5, 16, 16), np.uint8)
        assert set(np.unique(whole)) == {0, 1}
        parts = [draw_masks(settings, range(*part), 16, mnist) for part in ((0, 2), (2, 3), (3, 5))]
        np.testing.assert_array_equal(np.concatenate(parts), whole)


@pytest.mark.parametrize("size", [8, 9])
def test_halves(size):
    half = size // 2
    holes = {
        "left": np.s_[:, :half],
        "right": np.s_[:, size - half :],
        "top": np.s_[:half],
        "bottom": np.s_[size - half :],
    }
    cycle = draw_masks(HALVES, range(4, 8), size, None)
    for index, (missing, hole) in enumerate(holes.items()):
        expected = np.ones((size, size))
        expected[hole] = 0
        settings = HalvesMask(kind="halves", missing=missing)
        for mask in (*draw_masks(settings, range(3), size, None), cycle[index]):
            np.testing.assert_array_equal(mask, expected, missing)


def test_the_stroke_of_a_digit_is_the_hole(mnist):
    """As Pillow resizes to the nearest pixel; image 6 takes the first digit again."""
    masks = draw_masks(DIGITS, range(7), 128, mnist)
    for index, digit in enumerate(image_of_digits(7)[[0, 1, 2, 3, 4, 5, 0]]):
        resized = Image.fromarray(digit).resize((128, 128), Image.Resampling.NEAREST)
        np.testing.assert_array_equal(masks[index], np.asarray(resized) == 0)


def test_the_digest_is_that_of_the_file_of_the_masks(mnist):
    assert masks_digest(HALVES, None) is None
    assert len(masks_digest(DIGITS, mnist)) == 64
