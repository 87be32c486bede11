"""From a source to a dataset's HDF5 file: decode in parallel, write in order, hold a few blocks."""

import os
import platform
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

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

A = TypeVar("A")
B = TypeVar("B")

BLOCK_BYTES = 1 << 22
"""Pixels that are decoded, hashed and written at once. Of such blocks a few a thread are held."""

MAX_THREADS = 16
"""Decoding releases Python's lock, but hashing and writing are one thread's work."""


def prepare_dataset(settings: DatasetSettings, output: Path) -> dict[str, Any]:
    """Make `output`, its digest beside it (ending .digest) and, last, the record (ending .json).

    The digest names the content alone: it is what the workflow compares. The record, which is also
    returned, says how the content was made.

    Raises UserError for what is wrong with the source, RunError when the files cannot be written.
    What existed before is replaced at the very end, or not at all.
    """
    source, skipped = _usable(open_source(settings.source), settings)
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
    record_path = output.with_suffix(".json")
    with (
        _disk_errors(output, nbytes=len(source) * int(np.prod(header.image))),
        atomic_path(record_path) as record_partial,
        atomic_path(output.with_suffix(".digest")) as digest_partial,
        atomic_path(output) as store_partial,
    ):
        digest = write_store(store_partial, header, _blocks(source, settings))
        record = _record(settings, header, digest, source.class_names, skipped)
        write_json(record_partial, record)
        digest_partial.write_text(f"{digest}\n")
    return record


def _usable(source: Source, settings: DatasetSettings) -> tuple[Source, list[str]]:
    """The source without its broken pictures, if they are to be skipped, and their names.

    The file has a fixed size from the start, so they are looked for before anything is written.
    """
    if getattr(settings.source, "broken", "stop") == "stop":
        return source, []

    def broken_in(span: range) -> dict[int, str]:
        broken = {}
        for i in span:
            try:
                source.read(i)
            except BrokenPicture as error:
                broken[i] = error.name
        return broken

    broken: dict[int, str] = {}
    for found in _in_parallel(broken_in, _spans(len(source), 64, f"checking {settings.name}")):
        broken |= found
    return source.without(set(broken)), list(broken.values())


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
    """The images in order, uint8 (n, C, H, W) at a time."""

    def block(span: range) -> np.ndarray:
        images = (source.read(i) for i in span)
        size = settings.channels, settings.image_size, settings.filter
        return np.stack([to_pixels(image, *size) for image in images])

    image_bytes = settings.channels * settings.image_size**2
    step = max(1, BLOCK_BYTES // image_bytes)
    yield from _in_parallel(block, _spans(len(source), step, f"preparing {settings.name}"))


def _spans(count: int, step: int, what: str) -> Iterator[range]:
    """0…count−1 in ranges of at most `step`, with a progress bar on a terminal."""
    with tqdm(total=count, desc=what, unit=" images", disable=None) as progress:
        for start in range(0, count, step):
            span = range(start, min(start + step, count))
            yield span
            progress.update(len(span))


def _in_parallel(function: Callable[[A], B], items: Iterable[A]) -> Iterator[B]:
    """`map` on threads, in order, with a bounded number of results waiting."""
    threads = min(MAX_THREADS, len(os.sched_getaffinity(0)))
    pool = ThreadPoolExecutor(threads)
    try:
        waiting = deque()
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > 2 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _record(
    settings: DatasetSettings,
    header: Header,
    digest: str,
    class_names: tuple[str, ...],
    skipped: list[str],
) -> dict[str, Any]:
    return {
        "dataset": settings.name,
        "digest": digest,
        "format_version": FORMAT_VERSION,
        "shape": [len(header.labels), *header.image],
        "splits": dict(header.splits),
        "num_classes": header.num_classes,
        "class_names": list(class_names),
        "filter": header.filter,
        "source": settings.source.model_dump(mode="json"),
        "source_checksums": dict(header.checksums),
        "skipped": skipped,
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("psld", "numpy", "pillow", "h5py")},
        },
    }


@contextmanager
def _disk_errors(output: Path, nbytes: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RunError(
            f"{output}: cannot be written ({error.strerror or error}); it needs "
            f"{nbytes / 1e6:,.1f} MB, and what stood there before is unchanged"
        ) from None
