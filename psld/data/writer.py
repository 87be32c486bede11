"""Write a dataset's HDF5 file (layout: psld/data/store.py) from a stream of images.

The HDF5 library crashes the interpreter if a full disk prevents it from flushing metadata.
Therefore HDF5 lays out everything but the pixels in memory, and plain writes, which raise plain
errors, put layout and pixels on disk.
"""

import hashlib
import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from psld.data.store import FORMAT_VERSION, content_digest


def write_store(
    path: Path,
    image: tuple[int, int, int],
    splits: Mapping[str, int],
    labels: np.ndarray,
    attributes: Mapping[str, Any],
    blocks: Iterable[np.ndarray],
) -> str:
    """Write a dataset of N images, the training images first; return the content's digest.

    Hold one block at a time. The same content gives the same bytes. Raises OSError if the disk is
    full, with an unfinished file at `path`: call it with a temporary name.

    Args:
        image: shape (C, H, W) of an image.
        splits: number of images in `train` and `test`.
        labels: int64 (N,).
        attributes: the attributes of the file that do not follow from the other arguments.
        blocks: uint8 (n, C, H, W) each, and N images in all.
    """
    pixels = hashlib.sha256()
    count = 0

    def layout(digest: str) -> bytes:
        sizes = {f"{name}_size": size for name, size in splits.items()}
        whole = {"format_version": FORMAT_VERSION, **sizes, **attributes, "digest": digest}
        return _layout((len(labels), *image), labels, whole)

    with path.open("wb") as file:
        file.write(layout("0" * 64))
        for block in blocks:
            contiguous = np.ascontiguousarray(block)
            pixels.update(contiguous)
            file.write(contiguous)
            count += len(block)
        if count != len(labels):
            raise ValueError(f"{count} images for {len(labels)} labels")
        digest = content_digest(pixels, labels, image, splits)
        final = layout(digest)
        file.write(len(final).to_bytes(8, "little") + hashlib.sha256(final).digest())
        file.seek(0)
        file.write(final)
    return digest


def _layout(shape: tuple[int, ...], labels: np.ndarray, attributes: Mapping[str, Any]) -> bytes:
    """The bytes of the file up to the first pixel."""
    import h5py

    memory = io.BytesIO()
    with h5py.File(memory, "w") as file:
        file.attrs.update(attributes)
        file.create_dataset("labels", data=labels.astype("<i8"))
        # Early allocation gives the images an offset now. Without filling, the file ends there: the
        # pixels are everything from the offset to the end of the file.
        creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        creation.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        images = file.create_dataset("images", shape, np.uint8, dcpl=creation, fill_time="never")
        offset = images.id.get_offset()
    assert memory.getbuffer().nbytes == offset, "HDF5 put something behind the images"
    return memory.getvalue()
