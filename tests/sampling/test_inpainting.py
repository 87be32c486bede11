"""Inpainting in the commands: sample i fills the hole of mask i in image i."""

import numpy as np
import pytest
import torch
from PIL import Image

from psld.data.store import ImageStore, write_store
from psld.data.units import from_uint8
from psld.diffusion.guidance import HalvesMask
from psld.paper.parts import DigitsMask
from psld.sampling.model import load_model
from psld.sampling.sample import draw_masks, known_pixels
from psld.sampling.settings import ShardRecord
from psld.sampling.shards import Shard, origin_of, read_shards
from psld.utils.errors import UserError
from tests.commands import call, succeeded
from tests.sampling.cells import CPU, settings

HALVES = HalvesMask(kind="halves", missing="cycle")
DIGITS = DigitsMask(kind="digits")

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
    """A folder with all 360 test images inpainted in four shards; the last shard is smaller."""
    folder = tmp_path_factory.mktemp("inpainted")
    places = (f"model={model}", f"data={digits}", "output=cell")
    succeeded(call(folder, "sample", *CELL, *places, "shards=4"))
    return folder


def shards(cell) -> list[Shard]:
    return [Shard.load(cell / "cell" / f"{index:05d}.safetensors") for index in range(4)]


def test_sample_i_fills_in_image_i(cell, digits):
    store = ImageStore.open(digits)
    parts = shards(cell)
    counts = [SIZE, SIZE, SIZE, 60]
    assert [len(part.images) for part in parts] == counts
    record = ShardRecord.read(cell / "cell" / "00000-00003.json")
    assert [shard.images for shard in record.shards] == counts
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


def test_the_images_and_masks_are_those_of_the_split_and_of_the_origin(model, digits, mnist):
    loaded, store = load_model(model, CPU), ImageStore.open(digits)
    given = (f"data={digits}", "sampler.guidance.split=train", f"mnist={mnist}")
    words = (*CELL[:3], "mask@sampler.guidance.mask=digits", f"shard_size={SIZE}")
    cell = settings(model, *words, *given)
    origin = origin_of(cell, loaded, None)
    assert origin.dataset_digest == store.digest
    assert origin.masks_digest == ImageStore.open(mnist).digest
    assert origin.guide_sha256 is origin.process_digest is origin.start_sha256 is None
    known = known_pixels(cell, loaded, origin, range(3, 5))
    expected = from_uint8(torch.from_numpy(store.images("train")[3:5].copy()))
    assert torch.equal(known.images, expected)
    masks = draw_masks(DIGITS, range(3, 5), 8, str(mnist))
    np.testing.assert_array_equal(known.mask[:, 0], masks)
    earlier = origin.model_copy(update={"masks_digest": "0" * 64})
    with pytest.raises(UserError, match="the images or the masks have changed"):
        known_pixels(cell, loaded, earlier, range(2))
    count = store.splits["train"]
    last = known_pixels(cell, loaded, origin, range(count - 1, count + 5))
    assert len(last.images) == len(last.mask) == 1
    with pytest.raises(UserError, match=f"starts at image {count}, but the train split of"):
        known_pixels(cell, loaded, origin, range(count, count + 2))


def test_a_dataset_of_other_images_than_the_model_s_is_refused(model, mnist):
    cell = settings(model, *CELL, f"data={mnist}")
    loaded = load_model(model, CPU)
    with pytest.raises(UserError, match=r"mnist\.h5: .*has image_size 28"):
        known_pixels(cell, loaded, origin_of(cell, loaded, None), range(2))


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


# --- masks ----------------------------------------------------------------------------------------


def image_of_digits(count: int) -> np.ndarray:
    """Return strokes, some of them faint, on a background of zeros, uint8 n×28×28."""
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (count, 28, 28), dtype=np.uint8)
    return np.where(random.random(pixels.shape) < 0.5, pixels, 0).astype(np.uint8)


@pytest.fixture(scope="module")
def mnist(tmp_path_factory):
    """A prepared dataset with the shape of MNIST: six training digits and one test digit."""
    path = tmp_path_factory.mktemp("mnist") / "mnist.h5"
    images = image_of_digits(7)[:, None]
    write_store(path, (1, 28, 28), {"train": 6, "test": 1}, np.zeros(7, np.int64), 10, [images])
    return path


def test_a_mask_is_the_same_in_every_shard(mnist):
    for kind in (HALVES, DIGITS):
        whole = draw_masks(kind, range(5), 16, mnist)
        assert (whole.shape, whole.dtype) == ((5, 16, 16), np.uint8)
        assert set(np.unique(whole)) == {0, 1}
        parts = [draw_masks(kind, range(*part), 16, mnist) for part in ((0, 2), (2, 3), (3, 5))]
        np.testing.assert_array_equal(np.concatenate(parts), whole)


@pytest.mark.parametrize("size", [8, 9])
def test_halves_remove_one_half_of_each_image(size):
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
        one = HalvesMask(kind="halves", missing=missing)
        for mask in (*draw_masks(one, range(3), size, None), cycle[index]):
            np.testing.assert_array_equal(mask, expected, missing)


def test_the_strokes_of_a_digit_are_the_hole(mnist):
    """Masks are resized like Pillow's nearest filter. Image 6 has the mask of the first digit
    again."""
    masks = draw_masks(DIGITS, range(7), 128, mnist)
    for index, digit in enumerate(image_of_digits(7)[[0, 1, 2, 3, 4, 5, 0]]):
        resized = Image.fromarray(digit).resize((128, 128), Image.Resampling.NEAREST)
        np.testing.assert_array_equal(masks[index], np.asarray(resized) == 0)
