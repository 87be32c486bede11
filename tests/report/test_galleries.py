"""Figures of samples: the place of each image."""

from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from psld.data.store import ImageStore
from psld.report.galleries import before_and_after, draw_shard
from psld.report.style import HOLE_COLOR
from psld.sampling.shards import Shard, ShardOrigin, shard_path
from tests.commands import call, refused, succeeded

COUNT = 10


@pytest.fixture
def store(digits):
    return ImageStore.open(digits)


@pytest.fixture
def originals(store) -> np.ndarray:
    """Images 10 to 19 of the test split."""
    return store.images("test")[COUNT : 2 * COUNT]


@pytest.fixture
def inpainted(store, originals) -> Shard:
    """The same, of which the lower half is white now."""
    origin = ShardOrigin(
        weights_sha256="w",
        sampler_digest="s",
        seed=0,
        index=1,
        size=COUNT,
        dataset_digest=store.digest,
    )
    images = originals.copy()
    images[:, :, 4:] = 255
    masks = np.ones((COUNT, 8, 8), np.uint8)
    masks[:, 4:] = 0
    return Shard(images, origin, nfe=1, seconds=1.0, device="CPU", masks=masks)


def test_each_class_has_a_row(inpainted):
    labels = np.array([2, 0, 2, 2, 1, 2, 2, 2, 0, 2])
    shard = replace(inpainted, labels=labels, masks=None)
    [axes] = draw_shard(shard, "x", rows=6, columns=4).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        "class 0",
        "class 1",
        "class 2",
    ]
    pixels = axes.images[0].get_array()
    for row, chosen in enumerate(([1, 8], [4], [0, 2, 3, 5])):
        for column in range(4):
            top, left = 1 + 9 * row, 1 + 9 * column
            image = shard.images[chosen[column], 0] if column < len(chosen) else 255
            np.testing.assert_array_equal(pixels[top : top + 8, left : left + 8, 0], image)
    [axes] = draw_shard(shard, "x", rows=2, columns=4).axes
    assert len(axes.get_yticklabels()) == 2


def test_inpainted_images_stand_below_their_originals(inpainted, originals):
    rows = before_and_after(inpainted, originals, rows=6, columns=4)
    assert [row.shape for row in rows] == 6 * [(4, 3, 8, 8)]
    for strip in range(2):
        shown = slice(4 * strip, 4 * strip + 4)
        before, masked, after = rows[3 * strip : 3 * strip + 3]
        for channel in range(3):
            np.testing.assert_array_equal(before[:, channel], originals[shown, 0])
            np.testing.assert_array_equal(masked[:, channel, :4], originals[shown, 0, :4])
            assert (masked[:, channel, 4:] == HOLE_COLOR[channel]).all()
            np.testing.assert_array_equal(after[:, channel], inpainted.images[shown, 0])


def test_a_last_strip_is_filled_up_with_blank_images(inpainted, originals):
    rows = before_and_after(inpainted, originals, rows=12, columns=4)
    assert len(rows) == 9
    assert (rows[-1][-2:] == 255).all()


@pytest.mark.parametrize("kind", ["plain", "guided", "inpainted"])
def test_the_command_draws_every_kind_of_shard(inpainted, digits, tmp_path, kind):
    labels = np.arange(COUNT) % 3 if kind == "guided" else None
    masks = inpainted.masks if kind == "inpainted" else None
    replace(inpainted, labels=labels, masks=masks).save(tmp_path / "shard.safetensors")
    data = [f"data={digits}"] if kind == "inpainted" else []
    finished = call(
        tmp_path, "figure", "shard=shard.safetensors", "title='$x_{$'", "output=x", *data
    )
    assert succeeded(finished).stdout == "wrote x.png and x.svg\n"
    assert "<!-- $x_{$ -->" in (tmp_path / "x.svg").read_text(), "a title is no formula"
    with Image.open(tmp_path / "x.png") as picture:
        colors = picture.convert("RGB").getcolors(1 << 20)
    assert (HOLE_COLOR in {color for _, color in colors}) == (kind == "inpainted")


def test_originals_must_be_those_of_the_shard(inpainted, digits, tmp_path):
    inpainted.save(tmp_path / "shard.safetensors")
    replace(inpainted, origin=inpainted.origin.at(40)).save(tmp_path / "late.safetensors")
    foreign = inpainted.origin.model_copy(update={"dataset_digest": "0"})
    replace(inpainted, origin=foreign).save(tmp_path / "foreign.safetensors")
    for shard, given, words in (
        ("shard.safetensors", [], "data: the originals of shard.safetensors"),
        (
            "foreign.safetensors",
            [f"data={digits}"],
            "not the images that foreign",
        ),
        ("late.safetensors", [f"data={digits}"], "late.safetensors is not of the test split"),
    ):
        refused(call(tmp_path, "figure", f"shard={shard}", "output=x", *given), 2, words)


def gallery(folder: Path, images: np.ndarray, *overrides: str) -> np.ndarray:
    """The gallery of these images, as an array."""
    origin = ShardOrigin(weights_sha256="0", sampler_digest="0", seed=0, index=0, size=len(images))
    Shard(images, origin, nfe=10, seconds=1.0, device="CPU").save(folder / "shard.safetensors")
    arguments = ("shard=shard.safetensors", "title=psld by em-10", "output=gallery", *overrides)
    succeeded(call(folder, "figure", *arguments))
    assert ElementTree.parse(folder / "gallery.svg").getroot().tag.endswith("svg")
    with Image.open(folder / "gallery.png") as image:
        return np.asarray(image.convert("RGB"))


def plain(*colors: tuple[int, int, int]) -> np.ndarray:
    """4×4 images of one color each."""
    return np.broadcast_to(np.array(colors, np.uint8)[:, :, None, None], (len(colors), 3, 4, 4))


def holds(pixels: np.ndarray, color: tuple[int, int, int]) -> bool:
    """Return True if at least a hundredth of the picture has this color."""
    return bool((pixels == color).all(axis=-1).mean() > 0.01)


def test_a_gallery_shows_the_first_images_row_by_row(tmp_path):
    red, green, blue, gray = (200, 0, 0), (0, 200, 0), (0, 0, 200), (90, 90, 90)
    pixels = gallery(tmp_path, plain(red, green, blue, gray), "rows=1", "columns=3")
    assert [holds(pixels, color) for color in (red, green, blue, gray)] == [1, 1, 1, 0]
    row = pixels[int(0.8 * len(pixels))]
    left, middle, right = (
        np.flatnonzero((row == color).all(axis=-1)).mean() for color in (red, green, blue)
    )
    assert left < middle < right
    # A page of 9.9 inches at 150 dots an inch.
    assert pixels.shape[1] == pytest.approx(9.9 * 150, rel=0.05)


def test_a_gallery_of_gray_images_and_of_few(tmp_path):
    images = np.full((3, 1, 8, 8), 90, np.uint8)
    pixels = gallery(tmp_path, images)
    assert holds(pixels, (90, 90, 90))


def test_a_gallery_needs_a_shard(tmp_path):
    for path, words in (
        ("missing.safetensors", "no such file"),
        ("damaged.safetensors", "damaged shard"),
    ):
        (tmp_path / "damaged.safetensors").write_bytes(b"no arrays")
        refused(call(tmp_path, "figure", f"shard={path}", "output=x"), 2, path, words)
    assert not list(tmp_path.glob("x.*"))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([], "not none"),
        (["figure=nfe", "shard=x.safetensors"], "not figure and shard"),
        (["shard=x.safetensors", "model=m"], "not shard and model"),
    ],
)
def test_a_figure_shows_one_thing(tmp_path, given, words):
    wanted = "give one of figure=NAME, shard=FILE and model=FOLDER"
    refused(call(tmp_path, "figure", *given, "output=x"), 2, wanted, words)


# --- figures of a grid ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("figure", "cell", "title"),
    [("samples/cld", "cld/em-10", "cld by em-10"), ("filled", "cld/free-10", "cld/free-10")],
)
def test_a_grids_figure_of_samples_is_that_of_a_cells_first_shard(
    folder, digits, inpainted, figure, cell, title
):
    shard, data = shard_path(Path("samples/mine") / cell, 0), f"data={digits}"
    masks = inpainted.masks if figure == "filled" else None
    replace(inpainted, masks=masks).save(folder / shard)
    succeeded(call(folder, "figure", "grid_name=mine", f"figure={figure}", data))
    alone = (f"shard={shard}", f"title={title}", "output=alone", "split=test", data)
    succeeded(call(folder, "figure", *alone))
    made = folder / f"results/figures/mine/{figure}.png"
    assert made.read_bytes() == (folder / "alone.png").read_bytes()


def test_a_grids_figure_of_missing_samples_is_refused(folder):
    finished = call(folder, "figure", "grid_name=mine", "figure=samples/cld")
    refused(finished, 2, "samples/mine/cld/em-10/00000.safetensors: no such file; sample it again")
