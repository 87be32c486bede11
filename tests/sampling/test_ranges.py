"""`psld sample` of a range of shards: kept shards, repeated shards, and pictures."""

import shutil

import numpy as np
import pytest
from PIL import Image

import psld
import psld.sampling.sample as sampling
from psld.sampling.shards import Shard, shard_path
from psld.utils.errors import RunError, UserError
from psld.utils.files import read_json
from tests.commands import call, files_below, refused, succeeded
from tests.sampling.cells import SIZE, names_in

RANGE = ("sampler=em", "sampler.steps=3", f"shard_size={SIZE}", "output=cell")


@pytest.fixture(scope="module")
def three(model, tmp_path_factory):
    """A folder with `cell`, in which one process has made three shards."""
    folder = tmp_path_factory.mktemp("three")
    succeeded(call(folder, "sample", *RANGE, f"model={model}", "shards=3"))
    return folder


@pytest.fixture
def cell(three, tmp_path):
    """A copy of the folder to damage."""
    return shutil.copytree(three, tmp_path / "copy") / "cell"


def resample(cell, model, *overrides: str) -> str:
    """What the command says."""
    arguments = (*RANGE, f"model={model}", *overrides)
    return succeeded(call(cell.parent, "sample", *arguments)).stdout


def names_of(indices: range) -> list[str]:
    """The files of shards."""
    return [f"{index:05d}.safetensors" for index in indices]


def test_one_process_and_one_process_per_shard_give_the_same_shards(three, model, tmp_path):
    assert names_in(three / "cell") == ["00000-00002.json", *names_of(range(3))]
    for index in range(3):
        whole = Shard.load(shard_path(three / "cell", index))
        options = (*RANGE, f"model={model}", f"first={index}")
        succeeded(call(tmp_path, "sample", *options))
        alone = Shard.load(shard_path(tmp_path / "cell", index))
        np.testing.assert_array_equal(alone.images, whole.images)
        assert alone.origin == whole.origin
    record = read_json(three / "cell" / "00000-00002.json")
    shards = [Shard.load(shard_path(three / "cell", index)) for index in range(3)]
    assert record["shards"] == [
        {"index": shard.origin.index, "digest": shard.digest(), "images": SIZE} for shard in shards
    ]


def test_complete_shards_are_kept_for_any_division_into_ranges(cell, model):
    before = files_below(cell)
    assert resample(cell, model, "shards=3").startswith("shard 0: kept\nshard 1: kept\n")
    assert files_below(cell) == before
    printed = resample(cell, model, "first=1", "shards=3").splitlines()
    assert printed[:3] == ["shard 1: kept", "shard 2: kept", "shard 3: 8 images, NFE 3"]
    after = files_below(cell)
    assert before.items() <= after.items()
    assert after.keys() - before.keys() == {"00003.safetensors", "00001-00003.json"}


def test_shards_of_another_origin_are_made_again_in_the_folder_of_a_cell(cell, model):
    images = Shard.load(shard_path(cell, 0)).images
    printed = resample(cell, model, "shards=3", "seed=1", "+folder=cell")
    assert ": kept" not in printed
    assert (
        printed.count("sampled with a different seed than the current model and sampler have") == 3
    )
    assert not np.array_equal(Shard.load(shard_path(cell, 0)).images, images)


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        (
            "model={other}",
            "different weights_sha256 than the current model and sampler have; sample",
        ),
        ("sampler.steps=4", "sampler.steps=3 then, 4 now: sampled with a different sampler_digest"),
        ("shard_size=4", "the current model and sampler have; give shard_size=8"),
    ],
)
def test_samples_of_another_model_or_sampler_are_not_replaced(
    cell, model, vp_sde_model, word, reason
):
    before = files_below(cell)
    words = (*RANGE, f"model={model}", word.format(other=vp_sde_model))
    said = *reason.split("…"), "another output, or delete this folder"
    refused(call(cell.parent, "sample", *words), 2, *said)
    assert files_below(cell) == before


def test_a_failed_range_keeps_the_shards_before_the_failure(model, tmp_path, monkeypatch):
    make = sampling.sample_shard

    def fail_at_two(settings, model, guide, origin, *rest):
        shard = make(settings, model, guide, origin, *rest)
        if origin.index == 2:
            raise RunError("shard 2: the sampler produced NaN or infinite values")
        return shard

    monkeypatch.setattr(sampling, "sample_shard", fail_at_two)
    finished = call(tmp_path, "sample", *RANGE, f"model={model}", "shards=4")
    refused(finished, 1, "shard 2")
    assert names_in(tmp_path / "cell") == names_of(range(2))


def test_pictures_are_written_next_to_the_shards(model, tmp_path):
    """Each image is written as a file, also from existing shards, or all images are in one file."""
    options = (*RANGE, f"model={model}")
    succeeded(call(tmp_path, "sample", *options))
    printed = succeeded(call(tmp_path, "sample", *options, "shards=2", "png=pictures")).stdout
    assert "wrote pictures\n" in printed
    shards = [Shard.load(shard_path(tmp_path / "cell", index)) for index in range(2)]
    images = np.concatenate([shard.images for shard in shards])
    assert names_in(tmp_path / "pictures") == [f"{index:05d}.png" for index in range(2 * SIZE)]
    for index, image in enumerate(images):
        with Image.open(tmp_path / "pictures" / f"{index:05d}.png") as picture:
            np.testing.assert_array_equal(np.asarray(picture), image[0])
    succeeded(call(tmp_path, "sample", *options, "shards=2", "png=all.png"))
    with Image.open(tmp_path / "all.png") as picture:
        assert picture.size == (4 * 68 + 4, 4 * 68 + 4)
        np.testing.assert_array_equal(np.asarray(picture)[4:68:8, 72:136:8], images[1, 0])


def test_the_npz_for_external_evaluators_has_the_images_of_all_shards(three, model, tmp_path):
    """The images are uint8 N×H×W×C."""
    resampled = shutil.copytree(three / "cell", tmp_path / "cell")
    words = (*RANGE, f"model={model}", "first=1", "shards=2", "npz=mine.npz")
    assert "wrote mine.npz\n" in succeeded(call(tmp_path, "sample", *words)).stdout
    written = np.load(tmp_path / "mine.npz")["arr_0"]
    shards = [Shard.load(shard_path(resampled, index)).images for index in (1, 2)]
    np.testing.assert_array_equal(written, np.concatenate(shards).transpose(0, 2, 3, 1))


def test_pictures_are_numbered_by_sample_and_have_a_single_source(model, vp_sde_model, tmp_path):
    options = (*RANGE, "png=pictures", f"model={model}")
    succeeded(call(tmp_path, "sample", *options, "first=1"))
    assert names_in(tmp_path / "pictures") == [f"{SIZE + i:05d}.png" for i in range(SIZE)]
    succeeded(call(tmp_path, "sample", *options))
    before = files_below(tmp_path / "pictures")
    assert len(before) == 2 * SIZE
    options = (*RANGE, "png=pictures", "output=other")
    for other in ((f"model={vp_sde_model}",), (f"model={model}", "seed=1")):
        refused(call(tmp_path, "sample", *options, *other), 2, "pictures: holds other pictures")
    with pytest.raises(UserError, match="holds other pictures, such as 000"):
        psld.save_images(np.zeros((2, 1, 8, 8), np.uint8), tmp_path / "pictures")
    assert files_below(tmp_path / "pictures") == before
    assert not (tmp_path / "other").exists()
    for _ in range(2):  # Writing the same images again is not refused.
        psld.save_images(np.zeros((2, 1, 8, 8), np.uint8), tmp_path / "zeros")
