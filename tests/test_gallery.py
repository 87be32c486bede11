"""The picture of a shard: which image stands where."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from psld.datasets.store import ImageStore
from psld.gallery import HOLE, GallerySettings, before_and_after, by_class
from psld.samplers.shards import Shard, ShardOrigin
from tests.commands import call, refused, succeeded

COUNT = 10


@pytest.fixture
def store(digits):
    return ImageStore.open(digits)


@pytest.fixture
def inpainted(store) -> Shard:
    """Images 10 to 19 of the test split, of which the lower half is white now."""
    origin = ShardOrigin("w", "s", seed=0, index=1, size=COUNT, dataset_digest=store.digest)
    images = store.images("test")[COUNT : 2 * COUNT].copy()
    images[:, :, 4:] = 255
    masks = np.ones((COUNT, 8, 8), np.uint8)
    masks[:, 4:] = 0
    return Shard(images, origin, nfe=1, seconds=1.0, device="CPU", masks=masks)


def settings(**changes) -> GallerySettings:
    places = {"shard": "x", "title": "x", "output": "x.png", "data": None, "split": "test"}
    return GallerySettings(**places | {"rows": 6, "columns": 4} | changes)


def test_each_class_has_a_row(inpainted):
    labels = np.array([2, 0, 2, 2, 1, 2, 2, 2, 0, 2])
    shard = replace(inpainted, labels=labels, masks=None)
    rows = by_class(shard, settings()).split(4)
    for row, chosen in zip(rows, ([1, 8], [4], [0, 2, 3, 5]), strict=True):
        np.testing.assert_array_equal(row[: len(chosen)], shard.images[chosen])
        assert (row[len(chosen) :] == 255).all(), "blank where the shard has no more"
    assert len(by_class(shard, settings(rows=2))) == 2 * 4


def test_inpainted_images_stand_below_their_originals(inpainted, store, digits):
    originals = store.images("test")[COUNT : 2 * COUNT]
    picture = before_and_after(inpainted, settings(data=str(digits)))
    assert picture.shape == (6 * 4, 3, 8, 8)
    for strip in range(2):
        shown = slice(4 * strip, 4 * strip + 4)
        before, masked, after = picture[12 * strip : 12 * strip + 12].split(4)
        for channel in range(3):
            np.testing.assert_array_equal(before[:, channel], originals[shown, 0])
            np.testing.assert_array_equal(masked[:, channel, :4], originals[shown, 0, :4])
            assert (masked[:, channel, 4:] == HOLE[channel]).all()
            np.testing.assert_array_equal(after[:, channel], inpainted.images[shown, 0])


def test_a_last_strip_is_filled_up_with_blank_images(inpainted, digits):
    picture = before_and_after(inpainted, settings(data=str(digits), rows=12))
    assert len(picture) == 9 * 4
    assert torch.equal(picture[-2:], torch.full((2, 3, 8, 8), 255, dtype=torch.uint8))


@pytest.mark.parametrize("kind", ["plain", "guided", "inpainted"])
def test_the_command_draws_every_kind_of_shard(inpainted, digits, tmp_path, kind):
    labels = np.arange(COUNT) % 3 if kind == "guided" else None
    masks = inpainted.masks if kind == "inpainted" else None
    replace(inpainted, labels=labels, masks=masks).save(tmp_path / "shard.h5")
    data = [f"data={digits}"] if kind == "inpainted" else []
    succeeded(call(tmp_path, "gallery", "shard=shard.h5", "title=x", "output=x.png", *data))
    with Image.open(tmp_path / "x.png") as picture:
        colours = picture.convert("RGB").getcolors(1 << 20)
    assert (HOLE in {colour for _, colour in colours}) == (kind == "inpainted")


def test_originals_must_be_those_of_the_shard(inpainted, digits, tmp_path):
    inpainted.save(tmp_path / "shard.h5")
    replace(inpainted, origin=replace(inpainted.origin, index=40)).save(tmp_path / "late.h5")
    foreign = replace(inpainted.origin, dataset_digest="0")
    replace(inpainted, origin=foreign).save(tmp_path / "foreign.h5")
    for shard, given, words in (
        ("shard.h5", [], "data: the originals of shard.h5"),
        ("foreign.h5", [f"data={digits}"], "not the images that foreign.h5 was made from"),
        ("late.h5", [f"data={digits}"], "late.h5 is not of the test split"),
    ):
        arguments = (f"shard={shard}", "title=x", "output=x.png", *given)
        refused(call(tmp_path, "gallery", *arguments), 2, words)
