"""Comparisons: the same samples of several cells below each other."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from psld.data.picture import tiled
from psld.report.galleries import draw_comparison, draw_images, full_row
from psld.sampling.shards import Shard, ShardOrigin, shard_path
from tests.commands import call, refused, succeeded

RED, GREEN, BLUE, GRAY = (200, 0, 0), (0, 200, 0), (0, 0, 200), (90, 90, 90)


def shard_of(*colors: tuple[int, int, int]) -> Shard:
    """4×4 images of one color each."""
    images = np.broadcast_to(np.array(colors, np.uint8)[:, :, None, None], (len(colors), 3, 4, 4))
    origin = ShardOrigin(weights_sha256="0", sampler_digest="0", seed=0, index=0, size=len(colors))
    return Shard(images, origin, nfe=10, seconds=1.0, device="CPU")


def write_first(folder: Path, cell: str, shard: Shard) -> None:
    shard.save(shard_path(folder / "samples" / "mine" / cell, 0))


def centre(pixels: np.ndarray, color: tuple[int, int, int]) -> tuple[float, float]:
    """Mean row and column of the pixels of a color, which must be there."""
    rows, columns = np.nonzero((pixels == color).all(axis=-1))
    assert len(rows) > 100, color
    return rows.mean(), columns.mean()


def test_a_row_is_a_cell_and_a_column_a_sample(folder):
    write_first(folder, "cld/em-10", shard_of(RED, GREEN))
    write_first(folder, "cld/rk45-1e-2", shard_of(BLUE, GRAY))
    succeeded(call(folder, "figure", "grid_name=mine", "figure=samplers/cld"))
    with Image.open(folder / "results/figures/mine/samplers/cld.png") as image:
        pixels = np.asarray(image.convert("RGB"))
    red, green, blue, gray = (centre(pixels, color) for color in (RED, GREEN, BLUE, GRAY))
    assert red[0] == pytest.approx(green[0], abs=2)
    assert red[1] == pytest.approx(blue[1], abs=2)
    assert red[0] < blue[0]
    assert red[1] < green[1] == pytest.approx(gray[1], abs=2)


def test_a_row_has_its_cells_name_and_only_the_first_samples():
    shards = {"em-10": shard_of(RED, GREEN, GRAY), "rk45-1e-2": shard_of(BLUE)}
    [axes] = draw_comparison(shards, "cld, by sampler", columns=2).axes
    assert axes.get_title() == "cld, by sampler"
    assert [label.get_text() for label in axes.get_yticklabels()] == list(shards)
    shown = axes.images[0].get_array()
    assert shown.shape == (11, 11, 3), "two images of 4×4, with a pixel around each"
    middles = [[tuple(shown[row, column]) for column in (3, 8)] for row in (3, 8)]
    assert middles == [[RED, GREEN], [BLUE, (255, 255, 255)]]


def test_names_stand_next_to_their_rows():
    images = np.zeros((9, 1, 8, 8), np.uint8)
    [axes] = draw_images(images, 3, "A title", ["one", "two", "three"]).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["one", "two", "three"]
    # With a pixel between images, the middles of the rows.
    assert list(axes.get_yticks()) == [4.5, 13.5, 22.5]
    assert axes.get_title() == "A title"


def test_a_row_is_filled_up_with_blank_images():
    row = full_row(np.zeros((2, 1, 4, 4), np.uint8), 3)
    assert [int(image.max()) for image in row] == [0, 0, 255]


@pytest.mark.parametrize("channels", [1, 3])
def test_tiles_have_white_between_them(channels):
    images = np.arange(2 * 3 * channels * 16, dtype=np.uint8).reshape(2, 3, channels, 4, 4)
    whole = tiled(images.reshape(6, channels, 4, 4), 3)
    assert whole.shape == (2 * 5 + 1, 3 * 5 + 1, channels)
    for row, column in np.ndindex(2, 3):
        tile = whole[1 + 5 * row : 5 + 5 * row, 1 + 5 * column : 5 + 5 * column]
        np.testing.assert_array_equal(tile, images[row, column].transpose(1, 2, 0))
    assert (whole[::5] == 255).all()
    assert (whole[:, ::5] == 255).all()


@pytest.mark.parametrize(
    ("figure", "words"),
    [
        ("samplers/longer", "figure: grid mine has no 'samplers/longer'; there are: nfe, "),
        ("samplers/cld", "samples/mine: no samples of figure samplers/cld yet"),
    ],
)
def test_a_comparison_needs_rows(folder, figure, words):
    refused(call(folder, "figure", "grid_name=mine", f"figure={figure}"), 2, words)
    assert not (folder / "results/figures").exists()
