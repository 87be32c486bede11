"""Shards on disk: complete or refused, and used only for their own cell."""

import hashlib
from dataclasses import asdict, replace

import h5py
import numpy as np
import pytest

from psld.sampling.records import SampledShard, ShardRecord
from psld.sampling.settings import shards_needed
from psld.sampling.shards import Shard, ShardOrigin, read_shards, shard_path
from psld.utils.errors import UserError
from tests.commands import disk_full_after, files_below

ORIGIN = ShardOrigin(weights_sha256="a" * 64, sampler_digest="b" * 64, seed=3, index=0, size=10)


def shard(index: int = 0, **origin) -> Shard:
    """Ten images, every pixel of which tells the sample's index."""
    samples = np.arange(10 * index, 10 * index + 10, dtype=np.uint8)
    images = np.broadcast_to(samples[:, None, None, None], (10, 1, 4, 4)).copy()
    return Shard(images, replace(ORIGIN, index=index, **origin), nfe=7, seconds=1.5, device="CPU")


def samples_in(shards) -> list[int]:
    return np.concatenate([part.images[:, 0, 0, 0] for part in shards]).tolist()


def read(folder, samples):
    return read_shards(folder, samples, ORIGIN)


@pytest.fixture
def cell(tmp_path):
    """The folder of a cell with three shards."""
    for index in range(3):
        shard(index).save(shard_path(tmp_path, index))
    return tmp_path


def test_a_shard_comes_back_as_it_was(tmp_path):
    saved = shard(2)
    saved.save(tmp_path / "folder" / "2.h5")
    loaded = Shard.load(tmp_path / "folder" / "2.h5")
    np.testing.assert_array_equal(loaded.images, saved.images)
    assert loaded.images.dtype == np.uint8
    assert (loaded.origin, loaded.nfe, loaded.seconds, loaded.device) == (
        saved.origin,
        7,
        1.5,
        "CPU",
    )


@pytest.mark.parametrize(("samples", "shards"), [(1, 1), (10, 1), (11, 2), (20, 2), (25, 3)])
def test_the_first_samples_of_a_cell(cell, samples, shards):
    """As many shards as are needed, the last one cut to fit."""
    assert shards_needed(samples, 10) == shards
    found = list(read(cell, samples))
    assert len(found) == shards
    assert samples_in(found) == list(range(samples))


def test_more_samples_than_there_are_shards(cell):
    with pytest.raises(UserError, match=r"00003\.h5: no such shard; make it with"):
        list(read(cell, 31))


@pytest.mark.parametrize(
    "origin", [{"weights_sha256": "c" * 64}, {"sampler_digest": "c"}, {"seed": 4}, {"size": 20}]
)
def test_a_shard_of_another_origin_is_named(cell, origin):
    """Its name alone makes no shard one of the cell."""
    path = shard_path(cell, 1)
    shard(1, **origin).save(path)
    (key,) = origin
    with pytest.raises(UserError, match=f"made by another {key} than the model") as caught:
        list(read(cell, 30))
    assert str(caught.value).startswith(str(path))
    assert samples_in(read(cell, 10)) == list(range(10)), "the others still serve"


def test_a_shard_under_another_index_is_named(cell):
    shard_path(cell, 2).replace(shard_path(cell, 1))
    with pytest.raises(UserError, match=r"00001\.h5: made by another index"):
        list(read(cell, 20))


def test_a_shard_cut_anywhere_is_named(tmp_path):
    path = tmp_path / "0.h5"
    shard().save(path)
    whole = path.read_bytes()
    for size in (0, 1, *range(7, len(whole), len(whole) // 60), len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(UserError, match="; sample it again") as caught:
            Shard.load(path)
        assert str(caught.value).startswith(f"{path}: damaged shard")
        assert "\n" not in str(caught.value)


def test_files_that_are_no_shards(tmp_path):
    path = tmp_path / "0.h5"
    with pytest.raises(UserError, match="no such shard"):
        Shard.load(path)
    path.write_text("no HDF5")
    with pytest.raises(UserError, match="damaged shard"):
        Shard.load(path)
    with h5py.File(path, "w") as file:
        file["images"] = np.zeros((1, 1, 2, 2), np.uint8)
    sign(path)
    with pytest.raises(UserError, match="not a shard of this version"):
        Shard.load(path)


def sign(path) -> None:
    """Give what h5py wrote the digest of a shard."""
    whole = path.read_bytes()
    path.write_bytes(whole + hashlib.sha256(whole).digest())


def flip_a_bit(path, content: bytes) -> None:
    """Of the one place in the file that holds this content."""
    whole = bytearray(path.read_bytes())
    assert whole.count(content) == 1
    whole[whole.index(content) + len(content) // 2] ^= 1
    path.write_bytes(whole)


def test_a_flipped_bit_in_any_array_is_noticed(tmp_path):
    path, random = tmp_path / "0.h5", np.random.default_rng(0)
    images = random.integers(0, 256, (10, 1, 4, 4), dtype=np.uint8)
    whole = replace(shard(), images=images, labels=np.arange(10) + 7 * 10**9)
    for array in (whole.images, whole.labels):
        whole.save(path)
        assert Shard.load(path).content_digest() == whole.content_digest()
        flip_a_bit(path, array.tobytes())
        with pytest.raises(UserError, match=r"damaged shard \(its digest differs\)"):
            Shard.load(path)


def test_a_digest_is_of_everything_that_is_the_same_in_each_process():
    labels, masks = np.zeros(10, np.int64), np.ones((10, 4, 4), np.uint8)
    changed = [
        shard(),
        shard(index=1),
        replace(shard(), images=shard(index=1).images),
        replace(shard(), images=shard().images.reshape(10, 1, 2, 8)),
        replace(shard(), labels=labels),
        replace(shard(), labels=labels + 1),
        replace(shard(), masks=masks),
        shard(seed=4),
    ]
    assert len({one.content_digest() for one in changed}) == len(changed)
    assert shard().content_digest() == replace(shard(), seconds=9.0).content_digest()


def write_records(folder, *ranges: range) -> list[str]:
    for shards in ranges:
        record = ShardRecord(
            shards=tuple(SampledShard(index=i, digest="0" * 64, images=10) for i in shards)
        )
        record.write(folder)
    return records_in(folder)


def records_in(folder) -> list[str]:
    return sorted(path.name for path in folder.glob("*.json"))


@pytest.mark.parametrize("how", ["missing", "damaged", "foreign"])
def test_a_shard_that_does_not_serve_takes_the_records_of_its_range_away(cell, how):
    """Then the workflow makes it again. The records of other ranges stay."""
    made = write_records(cell, range(0, 1), range(1, 3), range(0, 2), range(3, 5))
    assert made == ["00000-00000.json", "00000-00001.json", "00001-00002.json", "00003-00004.json"]
    (cell / "other.json").write_text("{}")
    match how:
        case "missing":
            shard_path(cell, 1).unlink()
        case "damaged":
            flip_a_bit(shard_path(cell, 1), shard(1).images.tobytes())
        case "foreign":
            shard(1, seed=4).save(shard_path(cell, 1))
    with pytest.raises(UserError, match=r"00001\.h5"):
        list(read(cell, 25))
    assert records_in(cell) == ["00000-00000.json", "00003-00004.json", "other.json"]
    assert samples_in(read(cell, 10)) == list(range(10)), "the others still serve"


@pytest.mark.parametrize("origin", ["{", "[]", '{"seed": 1}', '{"seed": 1, "speed": 2}'])
def test_an_origin_that_is_none(tmp_path, origin):
    path = tmp_path / "0.h5"
    shard().save(path)
    with h5py.File(path, "a") as file:
        file.attrs["origin"] = origin
    sign(path)
    with pytest.raises(UserError, match="damaged shard"):
        Shard.load(path)


def test_a_full_disk_leaves_what_was_there(tmp_path):
    path = tmp_path / "0.h5"
    shard().save(path)
    before = files_below(tmp_path)
    size = path.stat().st_size
    other = replace(shard(), images=np.zeros((10, 1, 4, 4), np.uint8))
    for limit in (0, 100, size // 2, size - 1):
        with disk_full_after(limit), pytest.raises(OSError, match=r"0\.h5"):
            other.save(path)
        assert files_below(tmp_path) == before
    other.save(path)
    assert not Shard.load(path).images.any()


def test_the_origin_holds_all_that_decides_the_images():
    always = {"weights_sha256", "sampler_digest", "seed", "index", "size"}
    guided = {"guide_sha256", "dataset_digest", "masks_digest"}
    assert asdict(ORIGIN).keys() == always | guided
