"""Shards on disk are used only if they are complete and belong to the cell."""

from dataclasses import replace

import numpy as np
import pytest

from psld.sampling.settings import SampledShard, ShardRecord, shards_needed
from psld.sampling.shards import Shard, ShardOrigin, read_shards, shard_path
from psld.utils.errors import UserError
from psld.utils.tensors import save_tensors

ORIGIN = ShardOrigin(weights_sha256="a" * 64, sampler_digest="b" * 64, seed=3, index=0, size=10)
HEADER = {"origin": ORIGIN.model_dump(), "nfe": 7, "seconds": 1.5, "device": "CPU"}


def shard(index: int = 0, **origin) -> Shard:
    """Return ten images in which every pixel has the index of the sample."""
    samples = np.arange(10 * index, 10 * index + 10, dtype=np.uint8)
    images = np.broadcast_to(samples[:, None, None, None], (10, 1, 4, 4))
    changed = ORIGIN.model_copy(update={"index": index, **origin})
    return Shard(images, changed, nfe=7, seconds=1.5, device="CPU")


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


def test_a_saved_shard_is_loaded_unchanged(tmp_path):
    labels, masks = np.arange(10), np.ones((10, 4, 4), np.uint8)
    for saved in (shard(2), replace(shard(1, guide_sha256="g"), labels=labels, masks=masks)):
        saved.save(tmp_path / "2.safetensors")
        loaded = Shard.load(tmp_path / "2.safetensors")
        assert loaded.digest() == saved.digest()
        assert loaded.images.dtype == np.uint8
        assert loaded.arrays().keys() == {
            name for name in ("images", "labels", "masks") if getattr(saved, name) is not None
        }
        for name, array in loaded.arrays().items():
            np.testing.assert_array_equal(array, getattr(saved, name))
        for name in ("origin", "nfe", "seconds", "device"):
            assert getattr(loaded, name) == getattr(saved, name)


def test_the_digest_includes_images_and_origin_but_not_durations():
    changed = [
        shard(),
        shard(seed=4),
        replace(shard(), images=shard(index=1).images),
        replace(shard(), labels=np.zeros(10, np.int64)),
    ]
    assert len({one.digest() for one in changed}) == len(changed)
    assert shard().digest() == replace(shard(), seconds=9.0).digest()


@pytest.mark.parametrize(("samples", "shards"), [(1, 1), (10, 1), (11, 2)])
def test_the_first_samples_of_a_cell_are_read(cell, samples, shards):
    """Only the necessary shards are read, and the last shard is truncated."""
    assert shards_needed(samples, 10) == shards
    parts = list(read(cell, samples))
    assert len(parts) == shards
    assert samples_in(parts) == list(range(samples))


@pytest.mark.parametrize("origin", [{"weights_sha256": "c" * 64}, {"size": 20}])
def test_a_shard_of_another_origin_is_named(cell, origin):
    """The name of a shard is not enough to belong to the cell."""
    path = shard_path(cell, 1)
    shard(1, **origin).save(path)
    (key,) = origin
    with pytest.raises(
        UserError, match=f"sampled with a different {key} than the current model"
    ) as caught:
        list(read(cell, 30))
    assert str(caught.value).startswith(str(path))
    assert ("give shard_size=20, or" in str(caught.value)) == (key == "size")


def test_a_shard_under_another_index_is_named(cell):
    shard_path(cell, 2).replace(shard_path(cell, 1))
    with pytest.raises(UserError, match=r"00001\.safetensors: sampled with a different index"):
        list(read(cell, 20))


def write_records(folder, *ranges: range) -> None:
    for shards in ranges:
        sampled = tuple(SampledShard(index=i, digest="0" * 64, images=10) for i in shards)
        ShardRecord(shards=sampled).write(folder)


@pytest.mark.parametrize("how", ["missing", "damaged", "foreign"])
def test_an_unusable_shard_removes_the_records_of_its_ranges(cell, how):
    """The workflow then samples these ranges again. The records of other ranges are kept."""
    write_records(cell, range(0, 1), range(1, 3), range(0, 2), range(3, 5))
    (cell / "other.json").write_text("{}")
    path = shard_path(cell, 1)
    match how:
        case "missing":
            path.unlink()
            words = "no such file"
        case "damaged":
            path.write_bytes(path.read_bytes()[:-1] + b"\0")
            words = "damaged shard file"
        case "foreign":
            shard(1, seed=4).save(path)
            words = "sampled with a different seed"
    with pytest.raises(UserError, match=rf"00001\.safetensors: {words}.*sample it again"):
        list(read(cell, 25))
    records = sorted(path.name for path in cell.glob("*.json"))
    assert records == ["00000-00000.json", "00003-00004.json", "other.json"]
    assert samples_in(read(cell, 10)) == list(range(10)), "the others still serve"


@pytest.mark.parametrize(
    ("arrays", "header"),
    [
        ({"images": shard().images}, {}),
        ({"images": shard().images}, HEADER | {"speed": 2}),
        ({"labels": np.arange(10)}, HEADER),
    ],
)
def test_a_shard_of_another_version_is_refused(tmp_path, arrays, header):
    """The file is complete and has a correct digest."""
    path = tmp_path / "0.safetensors"
    save_tensors(path, "shard", arrays, header)
    with pytest.raises(UserError, match=r"0\.safetensors: not a shard of this version"):
        Shard.load(path)
