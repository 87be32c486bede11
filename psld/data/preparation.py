"""Make a dataset's HDF5 file from a source: decode in parallel, write in order, hold few blocks."""

import os
import platform
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_args

import numpy as np
from PIL import Image

from psld.config.settings import load_record, with_digest
from psld.data.images import FileTree, refuse, to_channels
from psld.data.settings import DatasetSettings, FilterName, FolderSource, PrepareSettings
from psld.data.source import Picture, open_source
from psld.data.store import FORMAT_VERSION, Described, ImageStore, write_store
from psld.utils import VERSION
from psld.utils.errors import UserError
from psld.utils.files import atomic_path, write_json, write_text
from psld.utils.progress import Progress

BLOCK_BYTES = 1 << 22
"""Bytes of a block, which is decoded, hashed and written at once; two a thread are held."""

MAX_THREADS = 16
"""Decoding releases Python's lock, but one thread does all hashing and writing."""

FILTERS = {name: Image.Resampling[name.upper()] for name in get_args(FilterName)}

REPLACE = "give another dataset.name, or replace=true"
"""The remedies if another dataset is there."""


def prepare_dataset(
    settings: DatasetSettings, output: Path, replace: bool = False
) -> dict[str, Any]:
    """Make `output`, its digest (ending .digest) and, last, the record (ending .json).

    The digest depends on the content alone: the workflow compares it. The record, which is also
    returned, has its origin. An old file stays until the new one is whole.

    Raises UserError for a wrong source, or if `output` is a dataset of other settings or other
    images and `replace` is false.
    """
    earlier, now = None if replace else _earlier(output), settings.preparation()
    before = earlier.settings.preparation() if earlier else now
    if other := [key for key in now if before[key] != now[key]]:
        keys = " and another dataset.".join(other)
        raise UserError(f"{output}: prepared with another dataset.{keys}; {REPLACE}")
    source = open_source(settings.source)
    pictures = [*source.train, *source.test]
    splits = {"train": len(source.train), "test": len(source.test)}
    if not source.train:
        raise UserError("dataset.source: no training images are left")
    image = (settings.channels, settings.image_size, settings.image_size)
    labels = _labels(pictures, source.class_names, settings.num_classes)
    converted: Counter[str] = Counter()
    with atomic_path(output) as partial:
        blocks = _blocks(pictures, len(source.train), settings, converted)
        classes = settings.num_classes
        names = source.class_names if classes else ()
        digest = write_store(partial, image, splits, labels, classes, blocks, names)
        if earlier and earlier.digest != digest:
            raise UserError(f"{output}: holds other images; {REPLACE}")
    write_text(output.with_suffix(".digest"), f"{digest}\n")
    record = {
        "settings": settings.model_dump(mode="json"),
        "digest": digest,
        "format_version": FORMAT_VERSION,
        "shape": [len(pictures), *image],
        "splits": splits,
        "class_names": list(source.class_names),
        "listing": source.listing,
        "versions": {
            "python": platform.python_version(),
            "psld": VERSION,
            **{name: version(name) for name in ("numpy", "pillow", "h5py")},
        },
        "converted": dict(converted),
    }
    write_json(output.with_suffix(".json"), with_digest(record))
    return record


def _earlier(output: Path) -> Described | None:
    """Return the record of a dataset; None if there is no dataset with a whole record."""
    with suppress(UserError):
        return load_record(Described, output.with_suffix(".json"), "") if output.exists() else None
    return None


def notes_on_prepared(name: str, settings: PrepareSettings) -> Iterator[str]:
    """Compare a dataset with its digest file, which is repaired, and its pictures; yield lines.

    Pictures are compared by names and sizes. Nothing is prepared again, because everything after it
    would be made again. `name` is that of the dataset in the advice.
    """
    output = Path(settings.output)
    file, record = output.with_suffix(".digest"), _earlier(output)
    if record is None:
        return
    try:
        if file.exists() and file.read_bytes() != f"{record.digest}\n".encode():
            write_text(file, f"{ImageStore.open(output).digest}\n")
            yield f"{file}: not the digest of {output.name}; written again"
    except (UserError, OSError) as error:
        yield f"{file}: not the digest of {output.name} ({error})"
    source = settings.dataset.source
    is_same = record.settings.preparation() == settings.dataset.preparation()
    if record.listing and is_same and isinstance(source, FolderSource):
        try:
            now = FileTree(Path(source.root)).listing()
        except (UserError, OSError):  # The dataset serves without its pictures.
            return
        if now != record.listing:
            before, count = f"{record.listing['pictures']:,}", f"{now['pictures']:,}"
            yield (
                f"{output}: made of {before} pictures; {source.root} has {count} now, with other "
                f"names or sizes. To take them: psld prepare dataset={name} replace=true"
            )


def _labels(pictures: list[Picture], class_names: Sequence[str], num_classes: int) -> np.ndarray:
    if num_classes not in (0, len(class_names)):
        raise UserError(
            f"dataset.num_classes is {num_classes}, but the source has {len(class_names)} classes "
            f"({', '.join(class_names) or 'none'}); 0 ignores them"
        )
    if num_classes and "cycle" in class_names:
        raise UserError(
            "dataset.source: a class is called cycle, which samplers take for the list of all "
            "classes; rename it"
        )
    return np.array([picture.label if num_classes else 0 for picture in pictures], np.int64)


def _blocks(
    pictures: list[Picture], train_size: int, settings: DatasetSettings, converted: Counter[str]
) -> Iterator[np.ndarray]:
    """Yield pixels, some at a time, in order; count `conversions`, and what is in both splits.

    Raises UserError at the end, with all pictures that cannot be read.
    """
    channels, side, hashes = settings.channels, settings.image_size, []
    size = max(1, BLOCK_BYTES // (channels * side**2))
    threads = min(MAX_THREADS, len(os.sched_getaffinity(0)))
    blocks = [pictures[start : start + size] for start in range(0, len(pictures), size)]
    broken: list[str] = []

    def decoded(block: list[Picture]) -> tuple[np.ndarray, list[str]]:
        pixels, found = np.empty((len(block), channels, side, side), np.uint8), []
        for i, picture in enumerate(block):
            try:
                image = picture.read()
            except UserError as error:
                broken.append(str(error))
                continue
            pixels[i] = to_pixels(image, channels, side, settings.filter)
            found += conversions(image, channels, side)
        return pixels, found

    with (
        ThreadPoolExecutor(threads) as pool,
        closing(Progress(f"preparing {settings.name}", "image", len(pictures))) as progress,
    ):
        for start in range(0, len(blocks), 2 * threads):  # Bounds the memory.
            for pixels, found in pool.map(decoded, blocks[start : start + 2 * threads]):
                converted.update(found)
                hashes += [hash(image.tobytes()) for image in pixels]
                yield pixels
                progress.update(len(pixels))
    refuse(broken)
    train = set(hashes[:train_size])
    if copies := sum(each in train for each in hashes[train_size:]):
        converted["test image that is also a training image"] = copies


def to_pixels(
    image: Image.Image, channels: int, image_size: int, filter_name: FilterName | None
) -> np.ndarray:
    """Convert to uint8 (C, H, W), with antialiased resizing; squeeze to a square.

    Raises UserError if the size differs and there is no filter.
    """
    image, size = to_channels(image, channels), (image_size, image_size)
    if image.size != size and filter_name is None:
        raise UserError(
            f"images are {image.width}×{image.height} but dataset.image_size is {image_size}; "
            f"resize them with dataset.filter, one of {', '.join(FILTERS)}"
        )
    if image.size != size:
        image = image.resize(size, FILTERS[filter_name])
    pixels = np.asarray(image)
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


def conversions(image: Image.Image, channels: int, image_size: int) -> Iterator[str]:
    """Say what `to_pixels` changes in a picture besides shrinking it."""
    gray = image.mode in ("1", "L", "LA")
    if min(image.size) < image_size:
        yield f"smaller than {image_size}×{image_size}, enlarged"
    if image.has_transparency_data:
        yield "transparent, put on white"
    if gray != (channels == 1):
        yield f"{'gray' if gray else 'colored'}, made {'RGB' if gray else 'gray'}"
    elif image.mode == "CMYK":
        yield "CMYK, made RGB"
