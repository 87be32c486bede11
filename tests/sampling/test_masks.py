"""Masks: mask i depends only on its settings and i, and has the requested hole."""

import numpy as np
import pytest
from PIL import Image

from psld.config.settings import parse
from psld.data.store import write_store
from psld.sampling.masks import masks_digest, masks_of
from psld.sampling.settings import BoxesMask, DigitsMask, FileMask, HalvesMask
from psld.utils.errors import UserError

SIZE = 16
BOXES = BoxesMask(kind="boxes", count=1, smallest=0.25, largest=0.5, seed=0)
HALVES = HalvesMask(kind="halves", missing="cycle")


def image_of_digits(count: int) -> np.ndarray:
    """Strokes, some of them faint, on a background of zeros; uint8 n×28×28."""
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (count, 28, 28), dtype=np.uint8)
    return np.where(random.random(pixels.shape) < 0.5, pixels, 0).astype(np.uint8)


@pytest.fixture(scope="module")
def mnist(tmp_path_factory):
    """A prepared dataset of the shape of MNIST: six training digits, one to test."""
    path = tmp_path_factory.mktemp("mnist") / "mnist.h5"
    write_store(
        path,
        image=(1, 28, 28),
        splits={"train": 6, "test": 1},
        labels=np.zeros(7, np.int64),
        num_classes=10,
        blocks=[image_of_digits(7)[:, None]],
    )
    return path


@pytest.fixture
def own(tmp_path):
    """Writes a mask file and gives its settings."""

    def write(masks: np.ndarray) -> FileMask:
        np.save(tmp_path / "own.npy", masks)
        return FileMask(kind="file", path=str(tmp_path / "own.npy"))

    return write


def all_masks(own, mnist):
    five = np.random.default_rng(1).random((5, SIZE, SIZE)) < 0.5
    return (BOXES, HALVES, DigitsMask(kind="digits"), own(five))


def test_a_mask_is_the_same_in_every_shard(own, mnist):
    for settings in all_masks(own, mnist):
        whole = masks_of(settings, range(5), SIZE, mnist)
        assert whole.shape == (5, SIZE, SIZE)
        assert whole.dtype == np.uint8
        assert set(np.unique(whole)) == {0, 1}
        parts = [masks_of(settings, range(*part), SIZE, mnist) for part in ((0, 2), (2, 3), (3, 5))]
        np.testing.assert_array_equal(np.concatenate(parts), whole)


def side_lengths(mask: np.ndarray) -> tuple[int, int]:
    """Height and width of the hole, which must be a full rectangle."""
    rows, columns = np.nonzero((mask == 0).any(axis=1))[0], np.nonzero((mask == 0).any(axis=0))[0]
    height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
    assert (mask == 0).sum() == height * width
    return height, width


def test_boxes_have_the_sides_that_were_asked_for_and_are_anywhere():
    masks = masks_of(BOXES, range(400), SIZE)
    sides = {side for mask in masks for side in side_lengths(mask)}
    assert sides == {4, 5, 6, 7, 8}
    assert (masks == 0).any(axis=0).all(), "every pixel is in some hole"
    assert len({mask.tobytes() for mask in masks}) > 300
    other = masks_of(BOXES.model_copy(update={"seed": 1}), range(400), SIZE)
    assert not np.array_equal(masks, other)


def test_more_boxes_leave_less():
    more = masks_of(BOXES.model_copy(update={"count": 4}), range(100), SIZE)
    assert more.mean() < masks_of(BOXES, range(100), SIZE).mean() - 0.1


def test_boxes_of_tiny_images_have_a_pixel_at_least():
    tiny = BoxesMask(kind="boxes", count=1, smallest=0.01, largest=0.01, seed=0)
    assert {side_lengths(mask) for mask in masks_of(tiny, range(20), 8)} == {(1, 1)}


@pytest.mark.parametrize("size", [8, 9])
def test_halves(size):
    half = size // 2
    holes = {
        "left": np.s_[:, :half],
        "right": np.s_[:, size - half :],
        "top": np.s_[:half],
        "bottom": np.s_[size - half :],
    }
    cycle = masks_of(HALVES, range(4, 8), size)
    for index, (missing, hole) in enumerate(holes.items()):
        expected = np.ones((size, size))
        expected[hole] = 0
        settings = HalvesMask(kind="halves", missing=missing)
        for mask in (*masks_of(settings, range(3), size), cycle[index]):
            np.testing.assert_array_equal(mask, expected, missing)


def test_the_stroke_of_a_digit_is_the_hole(mnist):
    """As Pillow resizes to the nearest pixel; image 6 takes the first digit again."""
    masks = masks_of(DigitsMask(kind="digits"), range(7), 128, mnist)
    for index, digit in enumerate(image_of_digits(7)[[0, 1, 2, 3, 4, 5, 0]]):
        resized = Image.fromarray(digit).resize((128, 128), Image.Resampling.NEAREST)
        np.testing.assert_array_equal(masks[index], np.asarray(resized) == 0)


def test_masks_of_ones_own(own):
    masks = np.random.default_rng(0).integers(0, 2, (4, SIZE, SIZE))
    np.testing.assert_array_equal(masks_of(own(masks), range(1, 3), SIZE), masks[1:3])
    one = own(255 * masks[:1].astype(np.uint8))
    np.testing.assert_array_equal(masks_of(one, range(7, 9), SIZE), masks[[0, 0]])


MASKS = np.ones((4, SIZE, SIZE))


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        (MASKS, "holds 4 masks, too few for image 5"),
        (MASKS[..., 1:], r"masks are float64 \(4, 16, 15\), not n×16×16"),
        (MASKS[:0], r"masks are float64 \(0, 16, 16\)"),
        (MASKS[0], r"masks are float64 \(16, 16\)"),
        (np.array(1), r"masks are int64 \(\)"),
        (MASKS.astype(str), r"masks are <U32 \(4, 16, 16\)"),
        (MASKS.astype(object), "not an array as numpy.save writes it .*Python objects"),
    ],
)
def test_what_a_file_of_masks_must_be(own, masks, message):
    with pytest.raises(UserError, match=message):
        masks_of(own(masks), range(2, 6), SIZE)


def test_a_file_that_is_none(tmp_path):
    text, absent = tmp_path / "text.npy", tmp_path / "absent.npy"
    text.write_text("no array")
    with pytest.raises(UserError, match=r"text\.npy: not an array as numpy\.save writes it"):
        masks_of(FileMask(kind="file", path=str(text)), range(1), SIZE)
    with pytest.raises(UserError, match=r"absent\.npy: no such file"):
        masks_digest(FileMask(kind="file", path=str(absent)))


def test_the_digest_names_what_the_masks_come_from(own, mnist):
    assert masks_digest(BOXES) is None
    assert masks_digest(HALVES) is None
    assert masks_digest(DigitsMask(kind="digits"), mnist)
    digests = {masks_digest(own(MASKS)), masks_digest(own(0 * MASKS)), masks_digest(own(MASKS))}
    assert len(digests) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"smallest": 0.6}, "largest 0.5 is less than smallest 0.6"),
        ({"largest": 1.0}, "largest"),
        ({"count": 0}, "count"),
    ],
)
def test_impossible_boxes_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        parse(BoxesMask, BOXES.model_dump() | changes, "test")
