"""Make a dataset's HDF5 file from a source: decode in parallel, write in order, hold few blocks."""

import os
import platform
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from psld.data.picture import BrokenPicture, to_pixels
from psld.data.settings import DatasetSettings
from psld.data.source import Source
from psld.data.sources import open_source
from psld.data.store import FORMAT_VERSION
from psld.data.writer import Header, write_store
from psld.utils.errors import RunError, UserError
from psld.utils.files import atomic_path, write_json

BLOCK_BYTES = 1 << 22
"""Bytes of a block, which is decoded, hashed and written at once; up to three a thread are held."""

MAX_THREADS = 16
"""Decoding releases Python's lock, but one thread does all hashing and writing."""


def prepare_dataset(settings: DatasetSettings, output: Path) -> dict[str, Any]:
    """Make `output`, its digest (ending .digest) and, last, the record (ending .json).

    The digest depends on the content alone: the workflow compares it. The record, which is also
    returned, tells how the content was made. Old files stay until the new ones are whole.

    Raises UserError for a wrong source, RunError if the files cannot be written.
    """
    source = open_source(settings.source)
    skipped = _broken(source, settings)
    source = source.without(set(skipped))
    if source.splits["train"] == 0:
        raise UserError("dataset.source: no training images are left")
    header = Header(
        image=(settings.channels, settings.image_size, settings.image_size),
        splits=source.splits,
        labels=_labels(source, settings),
        num_classes=settings.num_classes,
        source=settings.source.kind,
        checksums=source.checksums,
        filter=settings.filter,
    )
    origin = {
        "format_version": FORMAT_VERSION,
        "shape": [len(source), *header.image],
        "splits": dict(source.splits),
        "num_classes": settings.num_classes,
        "class_names": list(source.class_names),
        "filter": settings.filter,
        "source": settings.source.model_dump(mode="json"),
        "source_checksums": dict(source.checksums),
        "skipped": list(skipped.values()),
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("psld", "numpy", "pillow", "h5py")},
        },
    }
    try:
        with (
            atomic_path(output.with_suffix(".json")) as record_partial,
            atomic_path(output.with_suffix(".digest")) as digest_partial,
            atomic_path(output) as store_partial,
        ):
            digest = write_store(store_partial, header, _blocks(source, settings))
            record = {"dataset": settings.name, "digest": digest, **origin}
            write_json(record_partial, record)
            digest_partial.write_text(f"{digest}\n")
    except OSError as error:
        megabytes = len(source) * int(np.prod(header.image)) / 1e6
        raise RunError(
            f"{output}: cannot be written ({error.strerror or error}); it needs "
            f"{megabytes:,.1f} MB, and the old file, if any, is unchanged"
        ) from None
    return record


def _broken(source: Source, settings: DatasetSettings) -> dict[int, str]:
    """Find the broken pictures, if they are to be skipped: index → name.

    The file has a fixed size, so they must be known before anything is written.
    """
    if getattr(settings.source, "broken", "stop") == "stop":
        return {}

    def broken_in(span: range) -> dict[int, str]:
        broken = {}
        for i in span:
            try:
                source.read(i)
            except BrokenPicture as error:
                broken[i] = error.name
        return broken

    found = _over_spans(broken_in, len(source), 64, f"checking {settings.name}")
    return {i: name for broken in found for i, name in broken.items()}


def _labels(source: Source, settings: DatasetSettings) -> np.ndarray:
    if settings.num_classes == 0:
        return np.zeros_like(source.labels)
    if settings.num_classes != len(source.class_names):
        names = ", ".join(source.class_names) or "none"
        raise UserError(
            f"dataset.num_classes is {settings.num_classes}, but the source has "
            f"{len(source.class_names)} classes ({names}); 0 ignores them"
        )
    return source.labels


def _blocks(source: Source, settings: DatasetSettings) -> Iterator[np.ndarray]:
    """Yield the images in order, uint8 (n, C, H, W) at a time."""

    def block(span: range) -> np.ndarray:
        size = settings.channels, settings.image_size, settings.filter
        return np.stack([to_pixels(source.read(i), *size) for i in span])

    step = max(1, BLOCK_BYTES // (settings.channels * settings.image_size**2))
    return _over_spans(block, len(source), step, f"preparing {settings.name}")


def _over_spans(function: Callable[[range], Any], count: int, step: int, what: str) -> Iterator:
    """Map `function` over 0…count−1 in ranges of at most `step`: in order, on threads."""
    threads = min(MAX_THREADS, len(os.sched_getaffinity(0)))
    pool = ThreadPoolExecutor(threads)
    waiting = deque()
    try:
        with tqdm(total=count, desc=what, unit=" images", disable=None) as progress:
            for start in range(0, count, step):
                span = range(start, min(start + step, count))
                waiting.append(pool.submit(function, span))
                if len(waiting) > 2 * threads:  # Bounds the memory.
                    yield waiting.popleft().result()
                progress.update(len(span))
            while waiting:
                yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
