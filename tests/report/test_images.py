"""Figures of samples: the positions of single images, rows of images, and inpainted images."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from psld.data.images import tiled
from psld.data.store import ImageStore
from psld.report import figures
from psld.report.figures import before_and_after, draw_shard
from psld.report.plots import HOLE_COLOR
from psld.sampling.shards import Shard, shard_path
from tests.commands import call, refused, succeeded
from tests.report.conftest import plain, shard_of

COUNT = 10
RED, GREEN, BLUE, GRAY = (200, 0, 0), (0, 200, 0), (0, 0, 200), (90, 90, 90)


@pytest.fixture
def inpainted(digits) -> Shard:
    """Images of the test split with a white lower half."""
    store = ImageStore.open(digits)
    images = store.images("test")[:COUNT].copy()
    images[:, :, 4:] = 255
    masks = np.ones((COUNT, 8, 8), np.uint8)
    masks[:, 4:] = 0
    return shard_of(images, dataset=store.digest, masks=masks)


def saved(folder: Path, shard: Shard, cell: str = "shard") -> str:
    """Save a shard, and return its path for the command line."""
    path = shard_path(Path(cell), 0)
    (folder / path).parent.mkdir(parents=True, exist_ok=True)
    shard.save(folder / path)
    return str(path)


def pixels_of(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def center(pixels: np.ndarray, color: tuple[int, int, int]) -> tuple[float, float]:
    """Return the mean row and column of the pixels of a color, and assert that there are many such
    pixels."""
    rows, columns = np.nonzero((pixels == color).all(axis=-1))
    assert len(rows) > 100, color
    return rows.mean(), columns.mean()


# -- one shard ------------------------------------------------------------------------------------


def test_each_class_has_a_row(inpainted):
    labels = np.array([2, 0, 2, 2, 1, 2, 2, 2, 0, 2])
    shard = replace(inpainted, labels=labels, masks=None)
    [axes] = draw_shard(shard, "x").axes
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names == ["class 0", "class 1", "class 2"]
    pixels = axes.images[0].get_array()
    for row, label in enumerate(([1, 8], [4], [0, 2, 3, 5, 6, 7, 9])):
        for column in range(8):
            top, left = 4 + 68 * row, 4 + 68 * column
            image = shard.images[label[column], 0] if column < len(label) else 255
            shown = pixels[top : top + 64 : 8, left : left + 64 : 8, 0]
            np.testing.assert_array_equal(shown, image)


def test_inpainted_images_stand_between_their_holes_and_the_originals(inpainted, digits):
    """An incomplete last row is filled with blank images."""
    originals = ImageStore.open(digits).images("test")[:COUNT]
    rows = before_and_after(inpainted, originals, rows=12, columns=4)
    assert [row.shape for row in rows] == 9 * [(4, 3, 8, 8)]
    for three in range(2):
        part = slice(4 * three, 4 * three + 4)
        images = inpainted.images[part, 0]
        masked, after, before = rows[3 * three : 3 * three + 3]
        np.testing.assert_array_equal(before[:, 0], originals[part, 0])
        for channel in range(3):
            np.testing.assert_array_equal(masked[:, channel, :4], images[:, :4])
            assert (masked[:, channel, 4:] == HOLE_COLOR[channel]).all()
            np.testing.assert_array_equal(after[:, channel], images)
    assert (rows[-1][-2:] == 255).all()
    assert len(before_and_after(inpainted, originals, rows=5, columns=4)) == 3


# -- images in rows -------------------------------------------------------------------------------


@pytest.mark.parametrize(("channels", "side"), [(1, 24), (3, 64)])
def test_tiles_have_white_between_them_and_the_pixels_of_small_ones_are_squares(channels, side):
    shape = (6, channels, side, side)
    images = np.random.default_rng(0).integers(0, 255, shape, np.uint8)
    whole = tiled(images, 3)
    scale = 2 if side == 24 else 1
    gap = scale * side // 16
    pitch = scale * side + gap
    assert whole.shape == (2 * pitch + gap, 3 * pitch + gap, channels)
    for index, (row, column) in enumerate(np.ndindex(2, 3)):
        tile = whole[row * pitch + gap :, column * pitch + gap :][: scale * side, : scale * side]
        squares = np.kron(images[index].transpose(1, 2, 0), np.ones((scale, scale, 1), np.uint8))
        np.testing.assert_array_equal(tile, squares)
    for start in range(gap):
        assert (whole[start::pitch] == 255).all()
        assert (whole[:, start::pitch] == 255).all()


# -- figures of a grid ----------------------------------------------------------------------------


def draw(folder: Path, figure: str) -> Path:
    succeeded(call(folder, "figure", "grid_name=mine", f"figure={figure}"))
    return folder / f"results/figures/mine/{figure}.png"


def test_a_figure_of_samples_shows_a_cells_first_shard_row_by_row(folder):
    saved(folder, shard_of(plain(*16 * [GRAY], RED, GREEN)), "samples/mine/cld/em-10")
    pixels = pixels_of(draw(folder, "samples/cld"))
    red, green, gray = (center(pixels, color) for color in (RED, GREEN, GRAY))
    assert gray[0] < red[0] == pytest.approx(green[0], abs=2)
    assert red[1] < green[1] < gray[1]


def test_a_figure_of_inpainted_samples_shows_their_holes(folder, inpainted, digits):
    (folder / "data").mkdir()
    (folder / "data/digits.h5").symlink_to(digits)
    saved(folder, inpainted, "samples/mine/cld/holes-10")
    assert (pixels_of(draw(folder, "filled")) == HOLE_COLOR).all(axis=-1).any()
    saved(folder, shard_of(inpainted.images, masks=inpainted.masks), "samples/mine/cld/holes-10")
    said = "cld/holes-10: inpaints images of another data/digits.h5; sample the cell again"
    refused(call(folder, "figure", "grid_name=mine", "figure=filled"), 2, said)


def test_training_images_stand_below_samples(folder, digits, monkeypatch):
    """The images come from the whole split, because the images of a folder are sorted by class."""
    (folder / "data").mkdir()
    (folder / "data/digits.h5").symlink_to(digits)
    train, drawn = ImageStore.open(digits).images("train"), []
    monkeypatch.setattr(figures, "draw_images", lambda *args: drawn.append(args) or Figure())
    saved(folder, shard_of(train[1:19]), "samples/mine/cld/em-10")
    for name, rows in (("samples/cld", 2), ("samplers/cld", 1)):
        draw(folder, name)
        images, columns, _, names = drawn.pop()
        assert names[-1] == "training images"
        assert len(names) == rows + 1 == len(images) / columns
        np.testing.assert_array_equal(images[:columns], train[1 : columns + 1])
        below = images[-columns:]
        np.testing.assert_array_equal(below[[0, -1]], train[[0, -1]])
        assert len(np.unique(below, axis=0)) == columns


def test_a_comparison_has_a_row_for_each_cell_and_a_column_for_each_sample(folder):
    saved(folder, shard_of(plain(RED, GREEN)), "samples/mine/cld/em-10")
    saved(folder, shard_of(plain(BLUE, GRAY)), "samples/mine/cld/rk45-1e-2")
    pixels = pixels_of(draw(folder, "samplers/cld"))
    red, green, blue, gray = (center(pixels, color) for color in (RED, GREEN, BLUE, GRAY))
    assert red[0] == pytest.approx(green[0], abs=2)
    assert red[1] == pytest.approx(blue[1], abs=2)
    assert red[0] < blue[0]
    assert red[1] < green[1] == pytest.approx(gray[1], abs=2)
