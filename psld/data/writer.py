"""Write a dataset's HDF5 file (layout: psld/data/store.py) from a stream of images.

The HDF5 library crashes the interpreter if a full disk prevents it from flushing metadata.
Therefore HDF5 lays out everything but the pixels in memory, and plain writes, which raise plain
errors, put layout and pixels on disk.
"""

import hashlib
import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from psld.data.store import FORMAT_VERSION, content_digest


@dataclass(frozen=True)
class Header:
    """The content of the file except the pixels."""

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
    """Name of the resizing filter, if any."""


def write_store(path: Path, header: Header, blocks: Iterable[np.ndarray]) -> str:
    """Write `blocks`, uint8 (n, C, H, W) each and N images in all; return the content's digest.

    Hold one block at a time. The same header and pixels give the same bytes. Raises OSError if the
    disk is full, with an unfinished file at `path`: call it with a temporary name.
    """
    pixels = hashlib.sha256()
    count = 0
    with path.open("wb") as file:
        file.write(_layout(header, digest="0" * 64))
        for block in blocks:
            contiguous = np.ascontiguousarray(block)
            pixels.update(contiguous)
            file.write(contiguous)
            count += len(block)
        if count != len(header.labels):
            raise ValueError(f"{count} images for {len(header.labels)} labels")
        digest = content_digest(pixels, header.labels, header.image, header.splits)
        file.seek(0)
        file.write(_layout(header, digest))
    return digest


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
        # Early allocation gives the images an offset now. Without filling, the file ends there: the
        # pixels are everything from the offset to the end of the file.
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
