"""Files of arrays: our own safetensors, datasets. Damage never goes unnoticed."""

import json
import struct

import numpy as np
from hypothesis import example, given

from psld.data.store import ImageStore, write_store
from psld.utils.tensors import digest_of_arrays, load_tensors, save_tensors
from tests.fuzz.inputs import answer, changed, damaged

RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.integers(0, 256, (8, 1, 64, 64), dtype=np.uint8)
HEADER = {"origin": {"weights_sha256": "a" * 64, "seed": 0}, "seconds": 1.5, "device": None}
ARRAYS = {"images": IMAGES, "labels": np.arange(8)}


def test_arrays(place):
    path = place / "x.safetensors"
    sha256 = save_tensors(path, "shard", ARRAYS, HEADER)
    whole = path.read_bytes()

    @given(damaged(whole))
    @example(b"")
    @example(whole[: len(whole) // 2])
    def check(content):
        path.write_bytes(content)
        read = answer(lambda: load_tensors(path, "shard", "again"), str(path))
        assert read or content != whole
        assert read is None or digest_of_arrays("shard", read.arrays, read.origin) == sha256

    check()


def test_headers_of_arrays(place):
    """Lengths, types and offsets that do not fit."""
    path = place / "x.safetensors"
    save_tensors(path, "shard", ARRAYS, HEADER)
    whole = path.read_bytes()
    (size,) = struct.unpack("<Q", whole[:8])

    @given(changed(json.loads(whole[8 : 8 + size])))
    def check(header):
        text = header.encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + whole[8 + size :])
        answer(lambda: load_tensors(path, "shard", "again"), str(path))

    check()


def test_datasets(place):
    path = place / "x.h5"
    splits = {"train": 5, "test": 3}
    digest = write_store(path, (1, 64, 64), splits, np.arange(8) % 2, 2, [IMAGES])

    whole = path.read_bytes()

    @given(damaged(whole))
    @example(b"")
    @example(whole[: len(whole) // 2])
    def check(content):
        path.write_bytes(content)
        found = answer(read, str(path))
        assert found is not None or content != whole
        assert found is None or np.array_equal(found, IMAGES)

    def read():
        store = ImageStore.open(path)
        assert (store.digest, store.splits, store.num_classes) == (digest, splits, 2)
        return store.images("all")

    check()
