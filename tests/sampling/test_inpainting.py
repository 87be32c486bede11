"""Inpainting in the commands: sample i fills in image i."""

import numpy as np
import pytest

from psld.data.store import ImageStore
from psld.diffusion.samplers import HalvesMask
from psld.sampling.inpainting import draw_masks, known_pixels
from psld.sampling.sample import origin_of
from psld.sampling.shards import Shard, read_shards
from psld.training.model import load_model
from psld.utils.errors import UserError
from tests.commands import call, refused, succeeded
from tests.sampling.cells import CPU, settings

HALVES = HalvesMask(kind="halves", missing="cycle")

SIZE = 100
CELL = (
    "sampler.steps=8",
    "sampler.striding=quadratic",
    "guidance@sampler.guidance=inpainting",
    "mask@sampler.guidance.mask=halves",
    f"shard_size={SIZE}",
)


@pytest.fixture(scope="module")
def cell(model, digits, tmp_path_factory):
    """A folder with all 360 test images inpainted, in four shards; the last one is short."""
    folder = tmp_path_factory.mktemp("inpainted")
    places = (f"model={model}", f"data={digits}", "output=cell")
    succeeded(call(folder, "sample", *CELL, *places, "shards=4"))
    return folder


def shards(cell) -> list[Shard]:
    return [Shard.load(cell / "cell" / f"{index:05d}.safetensors") for index in range(4)]


def test_sample_i_fills_in_image_i(cell, digits):
    store = ImageStore.open(digits)
    parts = shards(cell)
    assert [len(part.images) for part in parts] == [SIZE, SIZE, SIZE, 60]
    images = np.concatenate([part.images for part in parts])
    masks = np.concatenate([part.masks for part in parts])
    np.testing.assert_array_equal(masks, draw_masks(HALVES, range(360), 8, None))
    known = masks[:, None] == 1
    difference = images.astype(int) - store.images("test")
    assert np.abs(difference[known]).max() <= 2
    assert np.abs(difference[~known]).mean() > 20, "it has seen nothing of what is missing"
    for part in parts:
        assert part.labels is None
        assert part.nfe == 8
        assert part.origin.dataset_digest == store.digest
        assert part.origin.masks_digest is None


def test_a_dataset_that_is_replaced_while_it_is_read_is_refused(model, digits):
    """Its images would be in shards that state the digest of the earlier one."""
    given, loaded = settings(model, *CELL, f"data={digits}"), load_model(model, CPU)
    origin = origin_of(given, loaded.settings, loaded.weights_sha256, None)
    assert len(known_pixels(given, loaded, origin, range(2), CPU).images) == 2
    earlier = origin.model_copy(update={"dataset_digest": "0" * 64})
    with pytest.raises(UserError, match="replaced while they were read"):
        known_pixels(given, loaded, earlier, range(2), CPU)


def test_the_first_samples_are_cut_with_their_masks(cell):
    origin = shards(cell)[0].origin
    found = list(read_shards(cell / "cell", 330, origin))
    assert [(len(part.images), len(part.masks)) for part in found] == [(SIZE, SIZE)] * 3 + [
        (30, 30)
    ]
    with pytest.raises(UserError, match="ends with sample 359, but 361"):
        list(read_shards(cell / "cell", 361, origin))


def test_another_size_of_shards_has_the_same_masks_and_known_pixels(cell, model, digits):
    other = f"shard_size=60 first=5 model={model} data={digits} output=other".split()
    succeeded(call(cell, "sample", *CELL, *other))
    other, whole = Shard.load(cell / "other" / "00005.safetensors"), shards(cell)[3]
    np.testing.assert_array_equal(other.masks, whole.masks)
    known = np.broadcast_to(whole.masks[:, None] == 1, whole.images.shape)
    np.testing.assert_array_equal(other.images[known], whole.images[known])
    assert not np.array_equal(other.images, whole.images), "its noise is another shard's"


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["data=null"], ["data: sampler.guidance needs it"]),
        (
            ["sampler=rk45", "~sampler.steps", "~sampler.striding"],
            ["rk45 has none; use another sampler"],
        ),
        (["first=4"], ["begins at image 400", "test split", "has 360"]),
        (["sampler.guidance.split=all"], ["split", "'train' or 'test'"]),
        (["data=absent.h5"], ["absent.h5: no such file"]),
        (["mnist=x.h5"], ["mnist: sampler.guidance has no use for x.h5"]),
    ],
)
def test_bad_settings_are_refused_in_one_line(model, digits, tmp_path, overrides, words):
    given = [*CELL, f"model={model}", f"data={digits}", "output=x"]
    for override in overrides:
        key = override.lstrip("~").partition("=")[0]
        given = [kept for kept in given if not kept.startswith(f"{key}=")]
        given += [override] if not override.startswith("~") else []
    refused(call(tmp_path, "sample", *given), 2, *words)
    assert not (tmp_path / "x").exists()


def test_masks_of_digits_need_mnist(model, digits, tmp_path):
    digit = [key for key in CELL if not key.startswith("mask@")]
    digit.append("mask@sampler.guidance.mask=digits")
    given = (*digit, f"model={model}", f"data={digits}", "output=x")
    refused(call(tmp_path, "sample", *given), 2, "mnist: sampler.guidance needs it")
    refused(call(tmp_path, "sample", *given, "mnist=absent.h5"), 2, "dataset=absent")
