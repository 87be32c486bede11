"""Writing a dataset's HDF5 file (layout: psld/datasets/store.py) from a stream of images.

h5py alone would do, but for the full disk: when its metadata cannot be flushed the HDF5 library
crashes the interpreter. So HDF5 lays the file out in memory, everything but the pixels, and plain
writes, whose errors are plain, put layout and pixels on disk.
"""

import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from psld.data.store import FORMAT_VERSION, ContentDigest

_NO_DIGEST = "0" * 64


@dataclass(frozen=True)
class Header:
    """What stands in the file beside the pixels."""

    image: tuple[int, int, int]
    """Shape (C, H, W) of an image."""
    splits: Mapping[str, int]
    """Number of images in `train` and `test`."""
    labels: np.ndarray
    """int64 (N,), the training images first."""
    num_classes: int
    source: str
    """Kind of the source."""
    checksums: Mapping[str, str]
    """SHA-256 of each file or folder of the source."""
    filter: str | None
    """Name of the filter of the resizing, None where there was none."""


def write_store(path: Path, header: Header, blocks: Iterable[np.ndarray]) -> str:
    """Write `blocks`, uint8 (n, C, H, W) each and N images in all; returns the content's digest.

    Holds one block at a time. The same header and pixels give the same bytes. Raises OSError when
    the disk is full, with an unfinished file at `path`: call it on a temporary name.
    """
    layout = _layout(header, _NO_DIGEST)
    digest = ContentDigest()
    count = 0
    with path.open("wb") as file:
        file.write(layout)
        for block in blocks:
            digest.update(block)
            file.write(np.ascontiguousarray(block))
            count += len(block)
        if count != len(header.labels):
            raise ValueError(f"{count} images for {len(header.labels)} labels")
        value = digest.finish(header.labels, header.image, header.splits)
        file.seek(0)
        file.write(_layout(header, value))
    return value


def _layout(header: Header, digest: str) -> bytes:
    """The bytes of the file up to the first pixel."""
    memory = io.BytesIO()
    with h5py.File(memory, "w") as file:
        file.attrs["format_version"] = FORMAT_VERSION
        file.attrs["train_size"] = header.splits["train"]
        file.attrs["test_size"] = header.splits["test"]
        file.attrs["num_classes"] = header.num_classes
        file.attrs["source"] = header.source
        file.attrs["source_checksums"] = json.dumps(dict(header.checksums), sort_keys=True)
        file.attrs["filter"] = header.filter or ""
        file.attrs["digest"] = digest
        file.create_dataset("labels", data=header.labels.astype("<i8"))
        # Allocated at once, so that it has its place in the file; never filled, so that the place
        # stays empty: the pixels are everything from here to the end of the file.
        creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        creation.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        images = file.create_dataset(
            "images",
            shape=(len(header.labels), *header.image),
            dtype=np.uint8,
            dcpl=creation,
            fill_time="never",
        )
        offset = images.id.get_offset()
    assert memory.getbuffer().nbytes == offset, "HDF5 put something behind the images"
    return memory.getvalue()
