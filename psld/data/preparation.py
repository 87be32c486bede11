"""Make a dataset's HDF5 file from a source: decode in parallel, write in order, hold few blocks."""

import json
import math
import os
import platform
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from psld.config.settings import with_digest
from psld.data.arrays import open_cifar10, open_digits, open_idx
from psld.data.folders import open_afhqv2, open_celeba, open_folder
from psld.data.picture import to_pixels
from psld.data.settings import (
    AFHQv2Source,
    CelebASource,
    CIFAR10Source,
    DatasetSettings,
    DigitsSource,
    FolderSource,
    MNISTSource,
    SourceSettings,
)
from psld.data.source import Picture, Source
from psld.data.store import FORMAT_VERSION, write_store
from psld.utils import VERSION
from psld.utils.errors import RunError, UserError
from psld.utils.files import DISK_ERRORS, atomic_path

BLOCK_BYTES = 1 << 22
"""Bytes of a block, which is decoded, hashed and written at once; up to three a thread are held."""

MAX_THREADS = 16
"""Decoding releases Python's lock, but one thread does all hashing and writing."""


def open_source(settings: SourceSettings, num_classes: int = 0) -> Source:
    """Find the files of a source; download them if that is allowed.

    `num_classes` is the number of classes of the dataset; 0 ignores them.

    Raises UserError that says what to get and its place if files are missing or damaged, RunError
    if a download fails.
    """
    match settings:
        case DigitsSource():
            return open_digits()
        case MNISTSource():  # or FashionMNISTSource
            return open_idx(settings)
        case CIFAR10Source():
            return open_cifar10(settings)
        case CelebASource():
            return open_celeba(settings)
        case AFHQv2Source():
            return open_afhqv2(settings)
        case FolderSource():
            return open_folder(settings, num_classes)


def prepare_dataset(settings: DatasetSettings, output: Path) -> dict[str, Any]:
    """Make `output`, its digest (ending .digest) and, last, the record (ending .json).

    The digest depends on the content alone: the workflow compares it. The record, which is also
    returned, has the origin of the content. Old files stay until the new ones are whole.

    Raises UserError for a wrong source, RunError if the files cannot be written.
    """
    source = open_source(settings.source, settings.num_classes)
    pictures = [*source.train, *source.test]
    splits = {"train": len(source.train), "test": len(source.test)}
    if not source.train:
        raise UserError("dataset.source: no training images are left")
    image = (settings.channels, settings.image_size, settings.image_size)
    origin = {
        "format_version": FORMAT_VERSION,
        "shape": [len(pictures), *image],
        "splits": splits,
        "num_classes": settings.num_classes,
        "class_names": list(source.class_names),
        "filter": settings.filter,
        "source": settings.source.model_dump(mode="json"),
        "source_checksums": dict(source.checksums),
        "versions": {
            "python": platform.python_version(),
            "psld": VERSION,
            **{name: version(name) for name in ("numpy", "pillow", "h5py")},
        },
    }

    labels = _labels(pictures, source.class_names, settings.num_classes)
    try:
        with (
            atomic_path(output.with_suffix(".json")) as record_partial,
            atomic_path(output.with_suffix(".digest")) as digest_partial,
            atomic_path(output) as store_partial,
        ):
            blocks = _blocks(pictures, settings)
            digest = write_store(store_partial, image, splits, labels, settings.num_classes, blocks)
            record = {"dataset": settings.name, "digest": digest, **origin}
            record_partial.write_text(json.dumps(with_digest(record), indent=2) + "\n")
            digest_partial.write_text(f"{digest}\n")
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        raise RunError(
            f"{output}: cannot be written ({error.strerror or error}); it needs "
            f"{len(pictures) * math.prod(image) / 1e6:,.1f} MB, and the old file, if any, is "
            "unchanged"
        ) from None
    return record


def _labels(pictures: list[Picture], class_names: Sequence[str], num_classes: int) -> np.ndarray:
    if num_classes not in (0, len(class_names)):
        raise UserError(
            f"dataset.num_classes is {num_classes}, but the source has {len(class_names)} classes "
            f"({', '.join(class_names) or 'none'}); 0 ignores them"
        )
    return np.array([picture.label if num_classes else 0 for picture in pictures], np.int64)


def _blocks(pictures: list[Picture], settings: DatasetSettings) -> Iterator[np.ndarray]:
    """Yield the pixels of all pictures, some at a time, in order. Threads decode them."""
    channels, side = settings.channels, settings.image_size
    size = max(1, BLOCK_BYTES // (channels * side**2))
    threads = min(MAX_THREADS, len(os.sched_getaffinity(0)))
    waiting: deque[Future] = deque()

    def decoded(part: list[Picture]) -> np.ndarray:
        return np.stack([to_pixels(x.read(), channels, side, settings.filter) for x in part])

    with (
        ThreadPoolExecutor(threads) as pool,
        tqdm(
            total=len(pictures), desc=f"preparing {settings.name}", unit=" images", disable=None
        ) as progress,
    ):
        for start in range(0, len(pictures), size):
            part = pictures[start : start + size]
            waiting.append(pool.submit(decoded, part))
            if len(waiting) > 2 * threads:  # Bounds the memory.
                yield waiting.popleft().result()
            progress.update(len(part))
        while waiting:
            yield waiting.popleft().result()
