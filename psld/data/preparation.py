"""Prepare the HDF5 file of a dataset: decode in parallel, write in order, with bounded memory."""

import math
import platform
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from operator import index
from pathlib import Path
from textwrap import shorten
from threading import Lock
from typing import Any, cast, get_args

import numpy as np
from PIL import Image

from psld.config.parts import imported
from psld.config.settings import load_record, with_digest
from psld.data.images import (
    BrokenPicture,
    as_image,
    central_part,
    reading_threads,
    refuse,
    to_channels,
)
from psld.data.settings import (
    Autoencoder,
    DatasetSettings,
    FilterName,
    Images,
    PrepareSettings,
    Source,
)
from psld.data.store import FORMAT_VERSION, ImageStore, PreparedRecord, write_store
from psld.utils import VERSION
from psld.utils.errors import UserError
from psld.utils.files import atomic_path, digest_of, write_json, write_text
from psld.utils.progress import Progress

BLOCK_BYTES = 1 << 22
"""The number of bytes in a block of images, which one thread decodes. At most two blocks per thread
are in memory."""

ENCODED = 250
"""The number of pictures that an autoencoder encodes at once."""

Encode = Callable[[int, Callable[[], np.ndarray]], np.ndarray]
"""Returns the tensors of a block. The arguments are the index of the block's first picture and a
function that reads the block's pictures."""

FLOATS = "dataset.dtype to float32 (docs/data.md)"

PLACES = "root", "path", "code"
"""The settings of a source that can change while the images stay the same."""

REPLACE = "give another dataset.name, or replace=true"
"""What to do if `output` holds another dataset."""


def prepare_dataset(
    settings: DatasetSettings, output: Path, replace: bool = False
) -> dict[str, Any]:
    """Write the dataset `output`, its digest (.digest) and its record (.json); return the record.

    The digest depends only on the content of the dataset. Later jobs of the workflow depend on the
    digest, not on the file's modification time. The record describes how the dataset was made and
    is written last. An existing dataset stays until the new dataset is complete.

    Raises UserError if the source cannot be read, or if `replace` is false and `output` is a
    dataset with other settings or other images.
    """
    earlier = None if replace else _existing_record(output)
    if earlier and (difference := _difference(earlier, settings)):
        raise UserError(f"{output}: {difference}; {REPLACE}")
    # Call `seen` before the images are read, so that a change during reading is reported later.
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
    image = settings.shape
    labels = np.zeros(sum(splits.values()), np.int64)
    converted: Counter[str] = Counter()
    with atomic_path(output) as unfinished, ExitStack() as stack:
        encoded = None
        if source.encoded:
            encoded = stack.enter_context(_encoded(settings, output, seen, settings.decode))
        blocks = _blocks(_Decoding(images, settings, labels, encoded), converted)
        names = found if classes else ()
        given = splits, labels, classes, blocks, names, settings.dtype
        digest = write_store(unfinished, image, *given)
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
    """Return a text that names the settings that have changed since a dataset was prepared.

    The text is empty if no setting has changed. If only the path or the code of the source has
    changed, the text names the source only if `Source.seen` also returns a different text.
    """
    before, now = earlier.settings.preparation(), settings.preparation()
    places = [{key: each["source"].pop(key, None) for key in PLACES} for each in (before, now)]
    keys = [key for key in now if before[key] != now[key]]
    if places[0] != places[1] and "source" not in keys:
        with suppress(UserError, OSError):  # A missing source is not an error here.
            keys += ["source"] if _source_text(settings.source) != earlier.seen else []
    return f"prepared with another dataset.{' and another dataset.'.join(keys)}" if keys else ""


def check_prepared(name: str, settings: PrepareSettings) -> None:
    """Raise UserError if a dataset was prepared by hand with other settings.

    If Snakemake prepared the dataset, Snakemake prepares it again when the settings change.

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
    with suppress(UserError, OSError):  # A missing source is not an error here.
        if record.seen and (now := _source_text(settings.dataset.source)) != record.seen:
            both = (shorten(text, 100, placeholder=" …") for text in (record.seen, now))
            yield (
                f"{output}: its source has changed since it was prepared ({'; now '.join(both)}). "
                f"To use its current images: {again}"
            )


def _source_text(source: Source) -> str:
    return str(imported(source).seen())


_index_lock = Lock()


def read_picture(
    source: Source, images: Images, split: str, i: int, size: tuple[int, int] | None = None
) -> tuple[Image.Image, int]:
    """Return a picture of a source and its label.

    `size`: the height and width of the dataset's images. Arrays are not cropped, so an array with
    another aspect ratio is an error unless `source.squeezes` is true.

    Only one thread at a time indexes the split, but several threads read pictures concurrently.

    Raises UserError if the picture or the label breaks the rules of `Images`.
    """
    where = f"dataset.source: {source.kind}: {split} picture {i}"
    with _index_lock:
        picture, label = getattr(images, split)[i]
    label = _checked_label(label, len(images.class_names), where)
    picture = picture() if callable(picture) else picture
    if isinstance(picture, np.ndarray) and picture.dtype != np.uint8:
        raise UserError(f"{where}: {picture.dtype}, not uint8; for tensors, set {FLOATS}")
    if size and isinstance(picture, np.ndarray) and not source.squeezes:
        height, width = picture.shape[:2]
        if height * size[1] != width * size[0]:
            right = f"set dataset.image_size to [{height}, {width}], or crop it yourself"
            raise UserError(f"{where}: an array of {height}×{width} is not cropped; {right}")
    return as_image(picture, where), label


def _checked_label(label: Any, classes: int, where: str) -> int:
    if not 0 <= (number := index(label)) < max(classes, 1):
        raise UserError(f"{where}: label {number}, but there are {classes} classes")
    return number


@dataclass
class _Decoding:
    """Decodes pictures and tensors in several threads, and fills in their labels."""

    images: Images
    settings: DatasetSettings
    labels: np.ndarray
    """int64 (N,): the labels of the training images, then the labels of the test images."""
    encode: Encode | None
    broken: dict[str, str | None] = field(default_factory=dict)
    """The errors of broken pictures; see `refuse`."""

    def __call__(self, block: tuple[str, range]) -> tuple[np.ndarray, list[str]]:
        """Return the pixels of a block of images, and the conversions that were made."""
        (name, numbers), found = block, []
        split, shape = getattr(self.images, name), self.settings.shape
        given = getattr(split, "shape", None)
        if given == (*shape[1:], shape[0]) or (given and self.settings.dtype == "float32"):
            return self._together(name, numbers), []
        one = self._picture if self.settings.dtype == "uint8" else self._tensor
        pixels = np.empty((len(numbers), *shape), self.settings.dtype)
        for i, number in enumerate(numbers):
            try:
                pixels[i], label, changes = one(name, number)
            except BrokenPicture as error:
                self.broken[str(error)] = error.file
                continue
            self._keep_label(name, number, label)
            found += changes
        return pixels, found

    def _keep_label(self, name: str, number: int, label: int) -> None:
        first = len(self.images.train) if name == "test" else 0
        self.labels[first + number] = label if self.settings.num_classes else 0

    def _where(self, name: str) -> str:
        return f"dataset.source: {self.settings.source.kind}: {name}"

    def _together(self, name: str, numbers: range) -> np.ndarray:
        """Read a range of pictures or tensors with one call of `pixels`."""
        split, where = getattr(self.images, name), self._where(name)
        said, classes = f"{where} pictures from {numbers.start} on", len(self.images.class_names)
        for number, label in zip(numbers, split.labels[numbers], strict=True):
            self._keep_label(name, number, _checked_label(label, classes, said))
        if self.encode:
            first = len(self.images.train) if name == "test" else 0
            return self.encode(first + numbers.start, partial(split.pixels, numbers))
        pixels = split.pixels(numbers)
        if self.settings.dtype == "float32":
            rows = getattr(split, "rows", range(len(split)))[numbers.start : numbers.stop]
            return as_tensors(pixels, self.settings.shape, where, rows)
        if pixels.dtype != np.uint8:
            raise UserError(f"{where}: {pixels.dtype}, not uint8; for tensors, set {FLOATS}")
        return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))

    def _tensor(self, name: str, number: int) -> tuple[np.ndarray, int, list[str]]:
        where = self._where(name)
        with _index_lock:  # as in `read_picture`
            tensor, label = getattr(self.images, name)[number]
        label = _checked_label(label, len(self.images.class_names), f"{where} tensor {number}")
        tensor = np.asarray(tensor() if callable(tensor) else tensor)
        one = tensor[None, None] if tensor.ndim == 2 else tensor[None]
        return as_tensors(one, self.settings.shape, where, [number])[0], label, []

    def _picture(self, name: str, number: int) -> tuple[np.ndarray, int, list[str]]:
        (_, height, width), found = self.settings.shape, []
        size, source = (height, width), self.settings.source
        image, label = read_picture(source, self.images, name, number, size)
        if image.width * height != image.height * width and not source.squeezes:
            image = central_part(image, height, width)
            what = "square" if height == width else f"{height}×{width}"
            found = [f"not {what}, cut to the central {what}"]
        pixels = to_pixels(image, self.settings.shape, self.settings.filter)
        return pixels, label, [*found, *conversions(image, self.settings.shape)]


def _blocks(decoding: _Decoding, converted: Counter[str]) -> Iterator[np.ndarray]:
    """Yield blocks of pixels in order, and count conversions in `converted`.

    `converted` also counts the test images that are also training images. Raises UserError after
    the last block if pictures are broken.
    """
    images, settings, hashes = decoding.images, decoding.settings, []
    count = len(images.train) + len(images.test)
    size = max(1, BLOCK_BYTES // (math.prod(settings.shape) * np.dtype(settings.dtype).itemsize))
    blocks = [
        (name, range(start, min(start + size, len(split))))
        for name, split in {"train": images.train, "test": images.test}.items()
        for start in range(0, len(split), size)
    ]
    threads = 1  # An autoencoder uses all cores or a GPU.
    if not decoding.encode:
        threads = reading_threads(lambda i: decoding(("train", range(i, i + 1))), len(images.train))
    with (
        ThreadPoolExecutor(threads) as pool,
        closing(Progress(f"preparing {settings.name}", "image", count)) as progress,
    ):
        # Submit only a few blocks at a time, to bound the memory.
        for start in range(0, len(blocks), 2 * threads):
            for pixels, found in pool.map(decoding, blocks[start : start + 2 * threads]):
                converted.update(found)
                if len(images.test):
                    hashes += [hash(image.tobytes()) for image in pixels]
                yield pixels
                progress.update(len(pixels))
    refuse(decoding.broken)
    train = set(hashes[: len(images.train)])
    if copies := sum(each in train for each in hashes[len(images.train) :]):
        converted["test image that is also a training image"] = copies


def as_tensors(
    values: np.ndarray, shape: tuple[int, ...], where: str, numbers: Sequence[int]
) -> np.ndarray:
    """Convert tensors n×C×H×W to float32. `numbers`: the index of each tensor in the source.

    Raises UserError if the tensors are not floats or do not have the shape `shape`, or if any value
    is NaN or infinite.
    """
    if values.dtype.kind != "f" or values.shape[1:] != shape:
        found = f"{values.dtype} {values.shape[1:]}"
        right = f"floats of {shape}; set dataset.channels and dataset.image_size to its shape"
        raise UserError(f"{where} tensor {numbers[0]}: {found}; dataset has {right}")
    with np.errstate(over="ignore"):
        floats = np.ascontiguousarray(values, np.float32)
    wrong = ~np.isfinite(floats).reshape(len(floats), -1).all(axis=1)
    if wrong.any():
        number = numbers[int(wrong.argmax())]
        raise UserError(f"{where} tensor {number}: has NaN or infinite values (as float32)")
    return floats


@contextmanager
def _encoded(
    settings: DatasetSettings, output: Path, seen: str, part: Autoencoder | None
) -> Iterator[Encode]:
    """Yield a function that encodes a block of pictures, or reads a block that is already encoded.

    The folder OUTPUT.encoded-DIGEST holds the encoded blocks, so that an interrupted run can be
    continued. DIGEST identifies the pictures and the autoencoder. The folder is removed at the end
    of the context.
    """
    import torch

    from psld.utils.device import choose_device

    device = choose_device("auto")
    folder = Path(f"{output}.encoded-{digest_of([settings.preparation(), seen])[:12]}")
    autoencoder = imported(cast(Autoencoder, part)).build(device)

    def encode(first: int, pictures: Callable[[], np.ndarray]) -> np.ndarray:
        path = folder / f"{first}.npy"
        if path.exists():
            return np.load(path)
        with torch.no_grad():
            parts = torch.from_numpy(np.array(pictures())).split(ENCODED)
            found = [autoencoder.encode(each.to(device)).float().cpu().numpy() for each in parts]
        numbers = range(first, first + sum(map(len, found)))
        values = as_tensors(
            np.concatenate(found), settings.shape, "dataset.decode: encode", numbers
        )
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as partial_file, partial_file.open("wb") as file:
            np.save(file, values)
        return values

    yield encode
    shutil.rmtree(folder, ignore_errors=True)


def to_pixels(
    image: Image.Image, shape: tuple[int, int, int], filter_name: FilterName | None
) -> np.ndarray:
    """Convert a picture to uint8 (C, H, W), resized with antialiasing. The aspect ratio may change.

    Raises UserError if the size differs and `filter_name` is None.
    """
    channels, height, width = shape
    image, size = to_channels(image, channels), (width, height)
    if image.size != size:
        if filter_name is None:
            asked = height if height == width else [height, width]
            raise UserError(
                f"images are {image.width}×{image.height} but dataset.image_size is {asked}; "
                f"resize them with dataset.filter, one of {', '.join(get_args(FilterName))}"
            )
        image = image.resize(size, Image.Resampling[filter_name.upper()])
    pixels = np.asarray(image)
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


def conversions(image: Image.Image, shape: tuple[int, int, int]) -> Iterator[str]:
    """Yield a description of each change that `to_pixels` makes to a picture, except shrinking."""
    channels, height, width = shape
    gray = image.mode in ("1", "L", "LA")
    if image.height < height or image.width < width:
        yield f"smaller than {height}×{width}, enlarged"
    if image.has_transparency_data:
        yield "transparent, put on white"
    if gray != (channels == 1):
        yield f"{'gray' if gray else 'colored'}, made {'RGB' if gray else 'gray'}"
    elif image.mode == "CMYK":
        yield "CMYK, made RGB"
