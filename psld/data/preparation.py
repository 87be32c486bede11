"""Prepare the HDF5 file of a dataset: decode in parallel, write in order, with bounded memory."""

import os
import platform
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from importlib.metadata import version
from operator import index
from pathlib import Path
from textwrap import shorten
from threading import Lock
from typing import Any, get_args

import numpy as np
from PIL import Image

from psld.config.parts import imported
from psld.config.settings import load_record, with_digest
from psld.data.images import (
    BrokenPicture,
    as_image,
    central_square,
    refuse,
    to_channels,
)
from psld.data.settings import DatasetSettings, FilterName, Images, PrepareSettings, Source
from psld.data.store import FORMAT_VERSION, ImageStore, PreparedRecord, write_store
from psld.utils import VERSION
from psld.utils.errors import UserError
from psld.utils.files import atomic_path, write_json, write_text
from psld.utils.progress import Progress

BLOCK_BYTES = 1 << 22
"""The number of bytes in a block of images, which one thread decodes. At most two blocks per thread
are in memory."""

MAX_THREADS = 16
"""The largest number of decoding threads. More threads are not faster, because a single thread
hashes and writes the decoded images."""

PLACES = "root", "path", "code"
"""The settings of a source that can change while the images stay the same."""

REPLACE = "give another dataset.name, or replace=true"
"""What to do if `output` holds another dataset."""


def prepare_dataset(
    settings: DatasetSettings, output: Path, replace: bool = False
) -> dict[str, Any]:
    """Write the dataset `output`, its digest (.digest) and its record (.json); return the record.

    The digest depends only on the content of the dataset. Later jobs of the workflow depend on the
    digest, not on the modification time. The record describes how the dataset was made and is
    written last. An existing dataset stays until the new dataset is complete.

    Raises UserError if the source cannot be read, or if `output` is a dataset with other settings
    or other images and `replace` is false.
    """
    earlier = None if replace else _existing_record(output)
    if earlier and (difference := _difference(earlier, settings)):
        raise UserError(f"{output}: {difference}; {REPLACE}")
    # Call this before the images are read, so that a change during the reading is reported later.
    seen = _source_text(settings.source)
    source = imported(settings.source)
    settings, images = settings.model_copy(update={"source": source}), source.open()
    splits = {"train": len(images.train), "test": len(images.test)}
    if not splits["train"]:
        raise UserError(f"dataset.source: {source.kind}: no training images are left")
    classes, found = settings.num_classes, images.class_names
    if classes not in (0, len(found)):
        raise UserError(
            f"dataset.num_classes is {classes}, but the source {settings.source.kind} has "
            f"{len(found)} classes ({', '.join(found) or 'none'}); 0 ignores them"
        )
    if classes and "cycle" in found:
        wrong = "a class is named cycle, which means all classes"
        raise UserError(f"dataset.source: {wrong}; rename the class")
    image = (settings.channels, settings.image_size, settings.image_size)
    labels = np.zeros(sum(splits.values()), np.int64)
    converted: Counter[str] = Counter()
    with atomic_path(output) as partial:
        blocks = _blocks(images, labels, settings, converted)
        names = found if classes else ()
        digest = write_store(partial, image, splits, labels, classes, blocks, names)
        if earlier and earlier.digest != digest:
            raise UserError(f"{output}: holds other images; {REPLACE}")
    write_text(output.with_suffix(".digest"), f"{digest}\n")
    record = {
        "settings": settings.model_dump(mode="json"),
        "digest": digest,
        "format_version": FORMAT_VERSION,
        "shape": [len(labels), *image],
        "splits": splits,
        "class_names": list(found),
        "seen": seen,
        "versions": {
            "python": platform.python_version(),
            "psld": VERSION,
            **{name: version(name) for name in ("numpy", "pillow", "h5py")},
        },
        "converted": dict(converted),
    }
    write_json(output.with_suffix(".json"), with_digest(record))
    return record


def _existing_record(output: Path) -> PreparedRecord | None:
    """Return the record of a dataset; None if the dataset or a valid record is missing."""
    with suppress(UserError):
        if output.exists():
            return load_record(PreparedRecord, output.with_suffix(".json"), "")
    return None


def _difference(earlier: PreparedRecord, settings: DatasetSettings) -> str:
    """Return a text that names the settings that differ from the settings of a prepared dataset.

    The text is empty if no setting differs. If only the place or the code of a source differs, the
    source counts as different only if the text of `Source.seen` differs.
    """
    before, now = earlier.settings.preparation(), settings.preparation()
    places = [{key: each["source"].pop(key, None) for key in PLACES} for each in (before, now)]
    keys = [key for key in now if before[key] != now[key]]
    if places[0] != places[1] and "source" not in keys:
        with suppress(UserError, OSError):  # The dataset is usable even without its source.
            keys += ["source"] if _source_text(settings.source) != earlier.seen else []
    return f"prepared with another dataset.{' and another dataset.'.join(keys)}" if keys else ""


def check_prepared(name: str, settings: PrepareSettings) -> None:
    """Raise UserError if a dataset was prepared by hand with other settings.

    A dataset that Snakemake has prepared is prepared again when its settings change.

    Args:
        name: the name of the dataset's config, for the command in the message.
    """
    earlier = _existing_record(output := Path(settings.output))
    if earlier and (difference := _difference(earlier, settings.dataset)):
        raise UserError(
            f"{output}: {difference}; to use these: psld prepare dataset={name} replace=true"
        )


def notes_on_prepared(name: str, settings: PrepareSettings) -> Iterator[str]:
    """Compare a dataset with its digest file and its source; yield a line for each difference.

    A wrong digest file is repaired. The dataset is not prepared again, because that would
    invalidate all results that depend on it. For `name`, see `check_prepared`.
    """
    output = Path(settings.output)
    file, record = output.with_suffix(".digest"), _existing_record(output)
    if record is None:
        return
    try:
        if file.exists() and file.read_bytes() != f"{record.digest}\n".encode():
            write_text(file, f"{ImageStore.open(output).digest}\n")
            yield f"{file}: not the digest of {output.name}; repaired"
    except (UserError, OSError) as error:
        yield f"{file}: not the digest of {output.name} ({error})"
    again = f"psld prepare dataset={name} replace=true"
    if difference := _difference(record, settings.dataset):
        yield f"{output}: {difference}; to use the current settings: {again}"
        return
    with suppress(UserError, OSError):  # The dataset is usable even without its source.
        if record.seen and (now := _source_text(settings.dataset.source)) != record.seen:
            both = (shorten(text, 100, placeholder=" …") for text in (record.seen, now))
            yield (
                f"{output}: its source has changed since it was prepared ({'; now '.join(both)}). "
                f"To use its current images: {again}"
            )


def _source_text(source: Source) -> str:
    return str(imported(source).seen())


_index_lock = Lock()


def read_picture(source: Source, images: Images, split: str, i: int) -> tuple[Image.Image, int]:
    """Return a picture of a source and its label.

    Only one thread at a time indexes the split, but several threads read pictures concurrently.

    Raises UserError if the picture or the label breaks the rules of `Images`.
    """
    where = f"dataset.source: {source.kind}: {split} picture {i}"
    with _index_lock:
        picture, label = getattr(images, split)[i]
    label = _checked_label(label, len(images.class_names), where)
    return as_image(picture() if callable(picture) else picture, where), label


def _checked_label(label: Any, classes: int, where: str) -> int:
    if not 0 <= (number := index(label)) < max(classes, 1):
        raise UserError(f"{where}: label {number}, but there are {classes} classes")
    return number


def _blocks(
    images: Images, labels: np.ndarray, settings: DatasetSettings, converted: Counter[str]
) -> Iterator[np.ndarray]:
    """Yield blocks of pixels in order; fill in `labels`, and count conversions in `converted`.

    `converted` also counts the test images that are also training images. Raises UserError after
    the last block if pictures are broken.
    """
    channels, side, hashes = settings.channels, settings.image_size, []
    size = max(1, BLOCK_BYTES // (channels * side**2))
    threads = min(MAX_THREADS, len(os.sched_getaffinity(0)))
    train_size, broken = len(images.train), dict[str, str | None]()
    splits: dict[str, Any] = {"train": images.train, "test": images.test}
    blocks = [
        (name, range(start, min(start + size, len(split))))
        for name, split in splits.items()
        for start in range(0, len(split), size)
    ]

    def decoded(block: tuple[str, range]) -> tuple[np.ndarray, list[str]]:
        (name, numbers), found = block, []
        split, first = splits[name], train_size if name == "test" else 0
        if getattr(split, "shape", None) == (side, side, channels):
            kind = settings.source.kind
            where = f"dataset.source: {kind}: {name} pictures from {numbers.start} on"
            for number, label in zip(numbers, split.labels[numbers], strict=True):
                label = _checked_label(label, len(images.class_names), where)
                labels[first + number] = label if settings.num_classes else 0
            return np.ascontiguousarray(split.pixels(numbers).transpose(0, 3, 1, 2)), []
        pixels = np.empty((len(numbers), channels, side, side), np.uint8)
        for i, number in enumerate(numbers):
            try:
                image, label = read_picture(settings.source, images, name, number)
            except BrokenPicture as error:
                broken[str(error)] = error.file
                continue
            labels[first + number] = label if settings.num_classes else 0
            if image.width != image.height and not settings.source.squeezes:
                image = central_square(image)
                found.append("not square, cut to the central square")
            pixels[i] = to_pixels(image, channels, side, settings.filter)
            found += conversions(image, channels, side)
        return pixels, found

    with (
        ThreadPoolExecutor(threads) as pool,
        closing(Progress(f"preparing {settings.name}", "image", len(labels))) as progress,
    ):
        # Submit only a few blocks at a time, to bound the memory.
        for start in range(0, len(blocks), 2 * threads):
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
    """Convert a picture to uint8 (C, H, W), resized with antialiasing to any aspect ratio.

    Raises UserError if the size differs and `filter_name` is None.
    """
    image, size = to_channels(image, channels), (image_size, image_size)
    if image.size != size:
        if filter_name is None:
            raise UserError(
                f"images are {image.width}×{image.height} but dataset.image_size is {image_size}; "
                f"resize them with dataset.filter, one of {', '.join(get_args(FilterName))}"
            )
        image = image.resize(size, Image.Resampling[filter_name.upper()])
    pixels = np.asarray(image)
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


def conversions(image: Image.Image, channels: int, image_size: int) -> Iterator[str]:
    """Yield a description of each change that `to_pixels` makes to a picture, except shrinking."""
    gray = image.mode in ("1", "L", "LA")
    if min(image.size) < image_size:
        yield f"smaller than {image_size}×{image_size}, enlarged"
    if image.has_transparency_data:
        yield "transparent, put on white"
    if gray != (channels == 1):
        yield f"{'gray' if gray else 'colored'}, made {'RGB' if gray else 'gray'}"
    elif image.mode == "CMYK":
        yield "CMYK, made RGB"
