"""Make a dataset's HDF5 file from a source: decode in parallel, write in order, hold few blocks."""

import json
import math
import os
import platform
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from psld.config.settings import with_digest
from psld.data.picture import BrokenPicture, to_pixels
from psld.data.settings import DatasetSettings
from psld.data.source import Picture
from psld.data.sources import open_source
from psld.data.store import FORMAT_VERSION
from psld.data.writer import write_store
from psld.utils import VERSION
from psld.utils.errors import RunError, UserError
from psld.utils.files import DISK_ERRORS, atomic_path

BLOCK_BYTES = 1 << 22
"""Bytes of a block, which is decoded, hashed and written at once; up to three a thread are held."""

MAX_THREADS = 16
"""Decoding releases Python's lock, but one thread does all hashing and writing."""


def prepare_dataset(settings: DatasetSettings, output: Path) -> dict[str, Any]:
    """Make `output`, its digest (ending .digest) and, last, the record (ending .json).

    The digest depends on the content alone: the workflow compares it. The record, which is also
    returned, has the origin of the content. Old files stay until the new ones are whole.

    Raises UserError for a wrong source, RunError if the files cannot be written.
    """
    source = open_source(settings.source, settings.num_classes)
    pictures = [*source.train, *source.test]
    broken: dict[Picture, str] = {}
    if getattr(settings.source, "broken", "stop") == "skip":
        # The file has a fixed size, so they must be found before anything is written.
        found = _in_parts(_broken_in, pictures, 64, f"checking {settings.name}")
        broken = {picture: name for part in found for picture, name in part.items()}
        pictures = [picture for picture in pictures if picture not in broken]
    train = sum(picture not in broken for picture in source.train)
    splits = {"train": train, "test": len(pictures) - train}
    if not train:
        raise UserError("dataset.source: no training images are left")
    image = (settings.channels, settings.image_size, settings.image_size)
    content = {
        "num_classes": settings.num_classes,
        "source": settings.source.kind,
        "source_checksums": json.dumps(dict(source.checksums), sort_keys=True),
        "filter": settings.filter or "",
    }
    origin = {
        "format_version": FORMAT_VERSION,
        "shape": [len(pictures), *image],
        "splits": splits,
        "num_classes": settings.num_classes,
        "class_names": list(source.class_names),
        "filter": settings.filter,
        "source": settings.source.model_dump(mode="json"),
        "source_checksums": dict(source.checksums),
        "skipped": list(broken.values()),
        "versions": {
            "python": platform.python_version(),
            "psld": VERSION,
            **{name: version(name) for name in ("numpy", "pillow", "h5py")},
        },
    }

    def block(part: list[Picture]) -> np.ndarray:
        size = settings.channels, settings.image_size, settings.filter
        return np.stack([to_pixels(picture.read(), *size) for picture in part])

    labels = _labels(pictures, source.class_names, settings.num_classes)
    blocks = _in_parts(
        block, pictures, max(1, BLOCK_BYTES // math.prod(image)), f"preparing {settings.name}"
    )
    try:
        with (
            atomic_path(output.with_suffix(".json")) as record_partial,
            atomic_path(output.with_suffix(".digest")) as digest_partial,
            atomic_path(output) as store_partial,
        ):
            digest = write_store(store_partial, image, splits, labels, content, blocks)
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


def _broken_in(pictures: list[Picture]) -> dict[Picture, str]:
    broken = {}
    for picture in pictures:
        try:
            picture.read()
        except BrokenPicture as error:
            broken[picture] = error.name
    return broken


def _labels(pictures: list[Picture], class_names: Sequence[str], num_classes: int) -> np.ndarray:
    if num_classes not in (0, len(class_names)):
        raise UserError(
            f"dataset.num_classes is {num_classes}, but the source has {len(class_names)} classes "
            f"({', '.join(class_names) or 'none'}); 0 ignores them"
        )
    return np.array([picture.label if num_classes else 0 for picture in pictures], np.int64)


def _in_parts(
    function: Callable[[list[Picture]], Any], pictures: list[Picture], size: int, what: str
) -> Iterator:
    """Map `function` over parts of at most `size` pictures: in order, on threads."""
    threads = min(MAX_THREADS, len(os.sched_getaffinity(0)))
    waiting = deque()
    with (
        ThreadPoolExecutor(threads) as pool,
        tqdm(total=len(pictures), desc=what, unit=" images", disable=None) as progress,
    ):
        for start in range(0, len(pictures), size):
            part = pictures[start : start + size]
            waiting.append(pool.submit(function, part))
            if len(waiting) > 2 * threads:  # Bounds the memory.
                yield waiting.popleft().result()
            progress.update(len(part))
        while waiting:
            yield waiting.popleft().result()
