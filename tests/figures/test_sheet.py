"""Sheets: the same samples of several cells below each other."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from psld.report.images import draw_images, full_row, tiled
from psld.sampling.shards import Shard, ShardOrigin, shard_path
from tests.commands import call, refused, succeeded

RED, GREEN, BLUE, GREY = (200, 0, 0), (0, 200, 0), (0, 0, 200), (90, 90, 90)


def write_shard(folder: Path, cell: str, *colours: tuple[int, int, int]) -> None:
    """The first shard of a cell: 4×4 images of one colour each."""
    images = np.broadcast_to(np.array(colours, np.uint8)[:, :, None, None], (len(colours), 3, 4, 4))
    origin = ShardOrigin("0", "0", seed=0, index=0, size=len(colours))
    shard = Shard(images, origin, nfe=10, seconds=1.0, device="CPU")
    shard.save(shard_path(folder / "samples" / "mine" / cell, 0))


def centre(pixels: np.ndarray, colour: tuple[int, int, int]) -> tuple[float, float]:
    """Mean row and column of the pixels of a colour, which must be there."""
    rows, columns = np.nonzero((pixels == colour).all(axis=-1))
    assert len(rows) > 100, colour
    return rows.mean(), columns.mean()


def test_a_row_is_a_cell_and_a_column_a_sample(folder):
    write_shard(folder, "cld/em-10", RED, GREEN, GREY)
    write_shard(folder, "cld/rk45-1e-2", BLUE, GREY, GREY)
    succeeded(call(folder, "sheet", "grid_name=mine", "sheet=samplers/cld", "columns=2"))
    with Image.open(folder / "results/figures/mine/samplers/cld.png") as image:
        pixels = np.asarray(image.convert("RGB"))
    red, green, blue, grey = (centre(pixels, colour) for colour in (RED, GREEN, BLUE, GREY))
    assert red[0] == pytest.approx(green[0], abs=2)
    assert red[1] == pytest.approx(blue[1], abs=2)
    assert red[0] < blue[0]
    assert red[1] < green[1] == pytest.approx(grey[1], abs=2)


def test_names_stand_beside_their_rows(folder):
    rows = [np.zeros((3, 1, 8, 8), np.uint8)] * 3
    [axes] = draw_images(rows, "A title", ["one", "", "three"]).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["one", "three"]
    # With a pixel between images, the middles of the first and of the third row.
    assert list(axes.get_yticks()) == [4.5, 22.5]
    assert axes.get_title() == "A title"


def test_a_row_is_filled_up_with_blank_images():
    row = full_row(np.zeros((2, 1, 4, 4), np.uint8), 3)
    assert [int(image.max()) for image in row] == [0, 0, 255]


@pytest.mark.parametrize("channels", [1, 3])
def test_tiles_have_white_between_them(channels):
    images = np.arange(2 * 3 * channels * 16, dtype=np.uint8).reshape(2, 3, channels, 4, 4)
    whole, middles = tiled(list(images))
    assert whole.shape == (2 * 5 + 1, 3 * 5 + 1, 3)
    assert middles == [2.5, 7.5]
    for row, column in np.ndindex(2, 3):
        tile = whole[1 + 5 * row : 5 + 5 * row, 1 + 5 * column : 5 + 5 * column]
        np.testing.assert_array_equal(tile, images[row, column].transpose(1, 2, 0) * np.ones(3))
    assert (whole[::5] == 255).all()
    assert (whole[:, ::5] == 255).all()


@pytest.mark.parametrize(
    ("sheet", "words"),
    [
        ("samplers/longer", "'samplers/longer' is not of grid mine; there are: models/digits"),
        ("samplers/cld", "samples/mine: no samples of sheet samplers/cld yet"),
    ],
)
def test_a_sheet_needs_rows(folder, sheet, words):
    refused(call(folder, "sheet", "grid_name=mine", f"sheet={sheet}"), 2, words)
