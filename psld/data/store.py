"""The HDF5 file of a prepared dataset, read through a memory map that all ranks share.

The HDF5 library may hang on a damaged file, and it crashes the interpreter if it cannot flush to a
full disk. The HDF5 library is therefore used only for the layout of a file. Pixels and digests are
read and written with ordinary file operations, which raise OSError.

Layout, version 3:

    images   uint8 or float32  (N, C, H, W), contiguous, the training images first
    labels   int64  (N,), all 0 if the dataset has no classes
    class_names     a JSON list, as bytes
    units           float64 (2, C), for float32: mean and standard deviation of each channel
    attributes of the file: format_version, train_size, test_size (N = train_size + test_size),
    num_classes, digest

The images are followed by 40 bytes that HDF5 ignores: the offset of the images in the file, a
little-endian 64-bit integer, and the SHA-256 of all bytes before that offset.
"""

import hashlib
import io
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np

from psld.config.settings import Settings, read_record
from psld.data.settings import DatasetSettings
from psld.data.units import BYTES, Moments, Units
from psld.utils.errors import UserError, reading
from psld.utils.files import retried_in_slurm

FORMAT_VERSION = 3
END_BYTES = 40
"""Number of bytes after the images."""
AGAIN = "prepare it again (psld prepare)"
Split = Literal["train", "test", "all"]


def content_digest(
    pixels: "hashlib._Hash",
    labels: np.ndarray,
    image: tuple[int, ...],
    splits: Mapping[Any, int],
    dtype: np.dtype,
) -> str:
    """Return the SHA-256 of all data that a training reads: pixels, labels, shape and split sizes.

    `pixels`: a hash object that has been updated with the pixels.
    """
    pixels.update(labels.astype("<i8"))
    shape = {"image": list(image), "train": splits["train"], "test": splits["test"]}
    shape |= {} if dtype == np.uint8 else {"dtype": dtype.name}
    pixels.update(json.dumps(shape, sort_keys=True).encode())
    return pixels.hexdigest()


@dataclass(frozen=True, eq=False)
class ImageStore:
    """A prepared dataset, open for reading."""

    path: Path
    digest: str
    splits: dict[Split, int]
    """Number of images in each of the splits `train` and `test`."""
    num_classes: int
    """Number of classes; 0 if the dataset has no classes."""
    class_names: tuple[str, ...]
    units: Units
    """The units of the stored values, which determine how networks see the values."""
    _images: np.memmap = field(repr=False)
    _labels: np.ndarray = field(repr=False)

    @classmethod
    @retried_in_slurm
    def open(cls, path: str | Path) -> "ImageStore":
        """Open a dataset as a memory map. The pixels are verified when `images` is first called.

        Raises UserError if the file is missing, damaged, truncated, or not a prepared dataset.
        """
        import h5py  # Imported late, because the import takes 0.1 seconds.

        path = Path(path)
        if not path.is_file():
            raise UserError(
                f"{path}: no such file; make it with psld prepare dataset={path.stem}, or with "
                f"dataset=folder dataset.name={path.stem} dataset.source.root=FOLDER"
            )
        # The file is opened only once, because another process may replace it at this path.
        with path.open("rb") as stream, reading(path, "not a valid dataset", f"; {AGAIN}"):
            offset = _checked_offset(stream)
            with h5py.File(stream, "r") as opened:
                file: Any = opened
                version = int(file.attrs["format_version"])
                if version != FORMAT_VERSION:
                    raise ValueError(f"format version {version}, not {FORMAT_VERSION}")
                train, test = (int(file.attrs[f"{name}_size"]) for name in ("train", "test"))
                labels, images = file["labels"][:], file["images"]
                end = offset + images.nbytes + END_BYTES
                if (images.id.get_offset(), os.fstat(stream.fileno()).st_size) != (offset, end):
                    raise ValueError("truncated, or with extra bytes after the images")
                units = BYTES
                if "units" in file:
                    mean, std = file["units"][:].tolist()
                    units = Units(mean=mean, std=std)
                given: Any = stream, units.dtype, "r", offset, images.shape
                mapped = np.memmap(*given)
                digest, num_classes = str(file.attrs["digest"]), int(file.attrs["num_classes"])
                names = tuple(json.loads(bytes(file["class_names"][:])))
        splits: dict[Split, int] = {"train": train, "test": test}
        return cls(path, digest, splits, num_classes, names, units, mapped, labels)

    @classmethod
    def open_for(cls, path: str | Path, dataset: DatasetSettings) -> "ImageStore":
        """Open a prepared dataset. Raises UserError if its images do not match the settings."""
        store = cls.open(path)
        channels, height, width = store.shape
        shape = {"channels": channels, "image_size": height if height == width else (height, width)}
        shape |= {"num_classes": store.num_classes, "dtype": store.units.dtype}
        for key, found in shape.items():
            if found != (expected := getattr(dataset, key)):
                raise UserError(
                    f"{path}: has {key} {found}, but dataset.{key} is {expected}; {AGAIN}, "
                    f"or give dataset.{key}={found}"
                )
        return store

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of an image, (C, H, W)."""
        return self._images.shape[1:]

    def images(self, split: Split) -> np.ndarray:
        """Return the images of a split as a view of the memory map, (n, C, H, W).

        The first call reads all images to verify the digest. Raises UserError if the split is empty
        or the file is damaged.
        """
        if self._content_digest != self.digest:
            raise UserError(f"{self.path}: the content does not match its digest; {AGAIN}")
        return self._images[self._range(split)]

    def labels(self, split: Split) -> np.ndarray:
        """Return the labels of a split, int64 (n,)."""
        return self._labels[self._range(split)]

    @cached_property
    def _content_digest(self) -> str:
        pixels = hashlib.sha256()
        step = max(1, (1 << 24) // self._images[0].nbytes)
        for start in range(0, len(self._images), step):
            pixels.update(self._images[start : start + step])
        shape, dtype = self._images.shape[1:], self._images.dtype
        return content_digest(pixels, self._labels, shape, self.splits, dtype)

    def _range(self, split: Split) -> slice:
        train, count = self.splits["train"], len(self._labels)
        start, stop = {"train": (0, train), "test": (train, count), "all": (0, count)}[split]
        if start == stop:
            raise UserError(f"{self.path}: the dataset has no {split} images")
        return slice(start, stop)


def _checked_offset(file: IO[bytes]) -> int:
    """Return the offset of the images. Raises ValueError if bytes before the offset are damaged."""
    size = os.fstat(file.fileno()).st_size
    file.seek(max(0, size - END_BYTES))
    end = file.read()
    offset = int.from_bytes(end[:8], "little")
    file.seek(0)
    layout = file.read(offset) if offset < size else b""
    if hashlib.sha256(layout).digest() != end[8:]:
        raise ValueError("damaged, of an older version, or not made by psld prepare")
    return offset


def write_store(
    path: Path,
    image: tuple[int, int, int],
    splits: Mapping[str, int],
    labels: np.ndarray,
    num_classes: int,
    blocks: Iterable[np.ndarray],
    class_names: Sequence[str] = (),
    dtype: str = "uint8",
) -> str:
    """Write a dataset of N images, the training images first; return the digest of its content.

    Only one block is in memory at a time. Equal datasets give identical files. If the disk is
    full, this function raises OSError and leaves an incomplete file, so `path` should be a
    temporary name.

    Args:
        image: shape (C, H, W) of an image.
        labels: int64 (N,), all 0 without classes. The iterator `blocks` may fill in the labels.
        blocks: arrays (n, C, H, W) of `dtype` with N images in total.
    """
    pixels, left = hashlib.sha256(), splits["train"]
    moments = None if dtype == "uint8" else Moments(image[0])
    sizes = {f"{name}_size": size for name, size in splits.items()}
    attributes = {"format_version": FORMAT_VERSION, **sizes, "num_classes": num_classes}
    given = (len(labels), *image), labels, class_names
    with path.open("wb") as file:
        file.write(_layout(*given, moments, {**attributes, "digest": "0" * 64}))
        for block in blocks:
            if block.dtype != dtype or block.shape[1:] != image:
                needed = f"{dtype} {('n', *image)} is needed"
                raise UserError(f"{path}: {block.dtype} {block.shape}; {needed}")
            contiguous = np.ascontiguousarray(block)
            pixels.update(contiguous)
            file.write(contiguous)
            if moments and left:
                moments.add(contiguous[:left])
            left = max(0, left - len(contiguous))
        digest = content_digest(pixels, labels, image, splits, np.dtype(dtype))
        layout = _layout(*given, moments, {**attributes, "digest": digest})
        file.write(len(layout).to_bytes(8, "little") + hashlib.sha256(layout).digest())
        file.seek(0)
        file.write(layout)
    return digest


def _layout(
    shape: tuple[int, ...],
    labels: np.ndarray,
    class_names: Sequence[str],
    moments: Moments | None,
    attributes: Mapping[str, Any],
) -> bytes:
    """Return the bytes of the file up to the first pixel."""
    import h5py

    memory = io.BytesIO()
    with h5py.File(memory, "w") as file:
        file.attrs.update(attributes)
        file.create_dataset("labels", data=labels.astype("<i8"))
        # Store the names in a dataset, because an attribute holds at most 64 KB.
        names = json.dumps(list(class_names)).encode()
        file.create_dataset("class_names", data=np.frombuffer(names, np.uint8))
        # With early allocation, HDF5 assigns the offset of the images now. Without fill values, it
        # writes no pixels, so the file ends at this offset, where `write_store` appends the pixels.
        creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        creation.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        units = moments.units if moments else BYTES
        if moments:
            file.create_dataset("units", data=np.array([units.mean, units.std], "<f8"))
        given: Any = "images", shape, np.dtype(units.dtype).newbyteorder("<")
        images = file.create_dataset(*given, dcpl=creation, fill_time="never")
        offset = images.id.get_offset()
    assert memory.getbuffer().nbytes == offset, "HDF5 wrote bytes after the offset of the images"
    return memory.getvalue()


class PreparedRecord(Settings, extra="ignore"):
    """The record of a prepared dataset, reduced to the fields that commands use."""

    settings: DatasetSettings
    digest: str
    seen: str = ""
    """The text of `Source.seen` at the time of the preparation."""


def described_record(path: Path) -> PreparedRecord:
    """Return the record of a prepared dataset. Raises UserError if the record is not valid."""
    ImageStore.open(path)
    record = path.with_suffix(".json")
    missing = f"no such file, which describes {path.name}; {AGAIN}"
    wrong = f"{record}: not the record of a dataset; {AGAIN}"
    return read_record(PreparedRecord, record, wrong, missing)


def described_dataset(path: Path) -> dict[str, Any]:
    """Return the settings of a prepared dataset. Raises UserError if its record is not valid."""
    return described_record(path).settings.model_dump(mode="json")
