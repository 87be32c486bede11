"""The HDF5 file: layout, memory map, digest, and errors for damaged files; quantization."""

import hashlib
import os

import h5py
import numpy as np
import pytest
import torch

from psld.data.settings import DatasetSettings
from psld.data.store import ImageStore, described_dataset, write_store
from psld.data.units import from_uint8, to_uint8, truncated
from psld.utils.errors import UserError
from tests.data.formats import random_images

IMAGES = random_images(10, 3, 4, 4)
LABELS = np.arange(10) % 3


def content(**changes):
    values = {
        "image": (3, 4, 4),
        "splits": {"train": 7, "test": 3},
        "labels": LABELS,
        "num_classes": 3,
    }
    return values | changes


def write(path, images=IMAGES, **changes):
    return write_store(path, **content(**changes), blocks=[images[:4], images[4:]])


@pytest.fixture
def path(tmp_path):
    write(tmp_path / "faces.h5")
    return tmp_path / "faces.h5"


def test_the_memory_map_equals_the_content_read_by_h5py(path):
    store = ImageStore.open(path)
    with h5py.File(path) as file:
        np.testing.assert_array_equal(file["images"][:], IMAGES)
        np.testing.assert_array_equal(file["labels"][:], LABELS)
        assert file["images"].chunks is None
    np.testing.assert_array_equal(store.images("all"), IMAGES)
    np.testing.assert_array_equal(store.images("train"), IMAGES[:7])
    np.testing.assert_array_equal(store.images("test"), IMAGES[7:])
    np.testing.assert_array_equal(store.labels("test"), LABELS[7:])
    assert isinstance(store.images("train"), np.memmap)
    assert np.shares_memory(store.images("all"), store.images("test"))
    assert not store.images("train").flags.writeable
    assert store.splits == {"train": 7, "test": 3}
    assert (store.shape, store.num_classes) == ((3, 4, 4), 3)


def test_the_digest_is_that_of_pixels_labels_and_shape(path):
    shape = b'{"image": [3, 4, 4], "test": 3, "train": 7}'
    content = IMAGES.tobytes() + LABELS.astype("<i8").tobytes() + shape
    assert ImageStore.open(path).digest == hashlib.sha256(content).hexdigest()
    transposed = np.ascontiguousarray(IMAGES.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    digest = write(path.with_name("x.h5"), images=transposed)
    assert digest == ImageStore.open(path).digest, "whatever the layout in memory"
    np.testing.assert_array_equal(ImageStore.open(path.with_name("x.h5")).images("all"), IMAGES)


DATASET = DatasetSettings(
    **{"name": "faces", "channels": 3, "image_size": 4, "num_classes": 3, "flip": False},
    **{"filter": None, "source": {"kind": "digits"}},
)


def test_a_dataset_must_match_the_channels_size_and_classes_of_the_settings(path):
    assert ImageStore.open_for(path, DATASET).num_classes == 3
    for key, other in (("channels", 1), ("image_size", 8), ("num_classes", 10)):
        wrong = DATASET.model_copy(update={key: other})
        found = getattr(DATASET, key)
        said = rf"has {key} {found}, but dataset\.{key} is {other}; .*give dataset\.{key}={found}"
        with pytest.raises(UserError, match=said):
            ImageStore.open_for(path, wrong)


def test_class_names_are_stored_but_do_not_change_the_digest(path, tmp_path):
    names = ("cat", "größe", "c" * 70_000)
    assert write(tmp_path / "named.h5", class_names=names) == ImageStore.open(path).digest
    assert ImageStore.open(tmp_path / "named.h5").class_names == names
    assert ImageStore.open(path).class_names == ()


def test_a_prepared_file_without_its_record_is_refused(path):
    with pytest.raises(UserError, match=r"faces\.json: no such file, .* faces\.h5; prepare it"):
        described_dataset(path)
    path.with_suffix(".json").write_text("{}")
    with pytest.raises(UserError, match=r"faces\.json: not the record of a dataset; prepare it"):
        described_dataset(path)


@pytest.mark.parametrize(
    ("images", "found"),
    [
        (IMAGES / np.float32(255), r"float32 \(10, 3, 4, 4\)"),
        (IMAGES[:, :1], r"uint8 .*1, 4, 4\)"),
    ],
)
def test_blocks_with_another_dtype_or_shape_are_refused(images, found, tmp_path):
    with pytest.raises(UserError, match=rf"x\.h5: {found}; uint8 \('n', 3, 4, 4\) is needed"):
        write_store(tmp_path / "x.h5", **content(), blocks=[images])


@pytest.mark.parametrize("place", [-41, 100, 2000], ids=["pixel", "attributes", "labels"])
def test_one_flipped_bit_is_detected(path, place):
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match="prepare it again"):
        ImageStore.open(path).images("train")


@pytest.mark.parametrize("lost", [1, 41])
def test_a_truncated_file_is_refused_before_it_is_mapped(path, lost):
    """Reading a map beyond the end of its file would kill the process (SIGBUS)."""
    os.truncate(path, path.stat().st_size - lost)
    with pytest.raises(UserError, match="prepare it again"):
        ImageStore.open(path)


def test_an_empty_split_is_an_error(tmp_path):
    write(tmp_path / "x.h5", splits={"train": 10, "test": 0})
    with pytest.raises(UserError, match="has no test images"):
        ImageStore.open(tmp_path / "x.h5").images("test")


def test_the_error_for_a_missing_file_names_the_command(tmp_path):
    with pytest.raises(UserError, match=r"psld prepare dataset=digits"):
        ImageStore.open(tmp_path / "digits.h5")


def sign(path) -> None:
    """Append the 40 bytes that psld prepare writes after the images to a file of h5py."""
    with h5py.File(path) as file:
        offset = (file["images"].id.get_offset() if "images" in file else None) or 800
    layout = path.read_bytes()[:offset]
    with path.open("ab") as file:
        file.write(offset.to_bytes(8, "little") + hashlib.sha256(layout).digest())


def test_another_hdf5_file_is_refused(tmp_path):
    (tmp_path / "x.csv").write_text("name,label\n" * 100)
    with h5py.File(tmp_path / "y.h5", "w") as file:
        file["samples"] = IMAGES
    for name in ("x.csv", "y.h5"):
        with pytest.raises(UserError, match="not made by psld prepare"):
            ImageStore.open(tmp_path / name)
    sign(tmp_path / "y.h5")
    with pytest.raises(UserError, match="not a valid dataset"):
        ImageStore.open(tmp_path / "y.h5")


def test_another_format_version(path):
    with h5py.File(path, "r+") as file:
        file.attrs["format_version"] = 99
    sign(path)
    with pytest.raises(UserError, match="format version 99, not 3"):
        ImageStore.open(path)


def test_images_that_cannot_be_mapped(path):
    with h5py.File(path, "r+") as file:
        del file["images"]
        file.create_dataset("images", data=IMAGES, chunks=(1, 3, 4, 4))
    sign(path)
    with pytest.raises(UserError, match="truncated, or with extra bytes after the images"):
        ImageStore.open(path)


# --- quantization: the official formula, clipped and truncated ------------------------------------


def test_to_uint8_clips_and_truncates():
    x = torch.tensor([-7.0, -1.0, 0.0, 0.999, 1.0, 7.0])
    u = to_uint8(x)
    assert u.dtype == torch.uint8
    assert u.tolist() == [0, 0, 127, 254, 255, 255]  # 127.5 → 127 and 254.87 → 254


def test_from_uint8_equals_the_official_division():
    u = torch.arange(256, dtype=torch.uint8)
    expected = np.arange(256, dtype=np.float32) / np.float32(127.5) - np.float32(1)
    np.testing.assert_array_equal(from_uint8(u).numpy(), expected)


def test_truncated_lowers_the_levels_that_the_official_code_lowers():
    """The official code reads datasets in float64 and passes them on in float32."""
    u = torch.arange(256, dtype=torch.uint8)
    lost = u.int() - truncated(u).int()
    assert sorted(lost.tolist()) == [0] * 161 + [1] * 95
