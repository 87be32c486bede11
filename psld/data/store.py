"""The HDF5 file of a prepared dataset, read through one memory map that all ranks share.

HDF5 sees nothing but the layout of a file: the library may hang when it reads a damaged file, and
it crashes the interpreter if a full disk keeps it from flushing. So plain reads and writes, which
raise plain errors, serve the pixels and the digests.

Layout, version 3:

    images   uint8  (N, C, H, W), contiguous; after them come only 40 bytes that HDF5 ignores: the
             offset of the images, a little-endian 64-bit integer, and the SHA-256 of all before it
    labels   int64  (N,), all 0 if the dataset has no classes
    class_names     a list in JSON, as bytes
    attributes of the file: format_version, train_size, test_size (N = train_size + test_size, train
    first), num_classes, digest
"""

import hashlib
import io
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

import numpy as np

from psld.config.settings import Settings, read_record
from psld.data.settings import DatasetSettings
from psld.utils.errors import UserError, reading
from psld.utils.files import retried_in_slurm

if TYPE_CHECKING:
    from torch import Tensor

FORMAT_VERSION = 3
END_BYTES = 40
"""The bytes behind the images."""
AGAIN = "prepare it again (psld prepare)"
Split = Literal["train", "test", "all"]


def content_digest(
    pixels: "hashlib._Hash", labels: np.ndarray, image: tuple[int, ...], splits: Mapping[Any, int]
) -> str:
    """Return the SHA-256 of a training's view: `pixels`, labels, image shape and split sizes."""
    pixels.update(labels.astype("<i8"))
    shape = {"image": list(image), "train": splits["train"], "test": splits["test"]}
    pixels.update(json.dumps(shape, sort_keys=True).encode())
    return pixels.hexdigest()


@dataclass(frozen=True, eq=False)
class ImageStore:
    """A prepared dataset, open for reading."""

    path: Path
    digest: str
    splits: dict[Split, int]
    """Number of images in `train` and `test`."""
    num_classes: int
    """0 if the dataset has no classes."""
    class_names: tuple[str, ...]
    _images: np.memmap = field(repr=False)
    _labels: np.ndarray = field(repr=False)

    @classmethod
    @retried_in_slurm
    def open(cls, path: str | Path) -> "ImageStore":
        """Map the file. Raises UserError if it is missing, damaged, cut short or foreign.

        The pixels are checked when `images` is first called.
        """
        import h5py  # A tenth of a second: no command needs it before its work begins.

        path = Path(path)
        if not path.is_file():
            raise UserError(
                f"{path}: no such file; make it with psld prepare dataset={path.stem}, or with "
                f"dataset=folder dataset.name={path.stem} dataset.source.root=FOLDER"
            )
        # Opened once: the path may be given to another file.
        with path.open("rb") as stream, reading(path, "not a whole dataset", f"; {AGAIN}"):
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
                    raise ValueError("cut short, or with something behind the images")
                mapped = np.memmap(stream, np.uint8, mode="r", offset=offset, shape=images.shape)
                digest, num_classes = str(file.attrs["digest"]), int(file.attrs["num_classes"])
                names = tuple(json.loads(bytes(file["class_names"][:])))
        splits: dict[Split, int] = {"train": train, "test": test}
        return cls(path, digest, splits, num_classes, names, mapped, labels)

    @classmethod
    def open_for(cls, path: str | Path, dataset: DatasetSettings) -> "ImageStore":
        """Open a dataset's file. Raises UserError if its images do not fit the settings."""
        store = cls.open(path)
        shape = {"channels": store.shape[0], "image_size": store.shape[-1]}
        for key, found in (shape | {"num_classes": store.num_classes}).items():
            if found != (expected := getattr(dataset, key)):
                raise UserError(
                    f"{path}: has {key} {found}, but dataset.{key} is {expected}; {AGAIN}, "
                    f"or give dataset.{key}={found}"
                )
        return store

    @property
    def shape(self) -> tuple[int, ...]:
        """That of an image, C×H×W."""
        return self._images.shape[1:]

    def images(self, split: Split) -> np.ndarray:
        """Return the images of a split, uint8 (n, C, H, W): a view of the memory map.

        All are read once, to check them. Raises UserError if there are none or they are damaged.
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
        return content_digest(pixels, self._labels, self._images.shape[1:], self.splits)

    def _range(self, split: Split) -> slice:
        train, count = self.splits["train"], len(self._labels)
        start, stop = {"train": (0, train), "test": (train, count), "all": (0, count)}[split]
        if start == stop:
            raise UserError(f"{self.path}: the dataset has no {split} images")
        return slice(start, stop)


def _checked_offset(file: IO[bytes]) -> int:
    """Return the offset of the images; ValueError if the digest of all before them is wrong."""
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
) -> str:
    """Write a dataset of N images, the training images first; return the content's digest.

    Hold one block at a time. The same content gives the same bytes. Raises OSError if the disk is
    full, with an unfinished file at `path`: call it with a temporary name.

    Args:
        image: shape (C, H, W) of an image.
        labels: int64 (N,); all 0 without classes. They may be filled while the blocks are made.
        blocks: uint8 (n, C, H, W) each, and N images in all.
    """
    pixels = hashlib.sha256()
    sizes = {f"{name}_size": size for name, size in splits.items()}
    attributes = {"format_version": FORMAT_VERSION, **sizes, "num_classes": num_classes}
    shape = (len(labels), *image)
    with path.open("wb") as file:
        file.write(_layout(shape, labels, class_names, {**attributes, "digest": "0" * 64}))
        for block in blocks:
            if block.dtype != np.uint8 or block.shape[1:] != image:
                needed = f"uint8 {('n', *image)} is needed"
                raise UserError(f"{path}: {block.dtype} {block.shape}; {needed}")
            contiguous = np.ascontiguousarray(block)
            pixels.update(contiguous)
            file.write(contiguous)
        digest = content_digest(pixels, labels, image, splits)
        layout = _layout(shape, labels, class_names, {**attributes, "digest": digest})
        file.write(len(layout).to_bytes(8, "little") + hashlib.sha256(layout).digest())
        file.seek(0)
        file.write(layout)
    return digest


def _layout(
    shape: tuple[int, ...],
    labels: np.ndarray,
    class_names: Sequence[str],
    attributes: Mapping[str, Any],
) -> bytes:
    """Return the bytes of the file up to the first pixel."""
    import h5py

    memory = io.BytesIO()
    with h5py.File(memory, "w") as file:
        file.attrs.update(attributes)
        file.create_dataset("labels", data=labels.astype("<i8"))
        names = json.dumps(list(class_names)).encode()  # An attribute holds no more than 64 KB.
        file.create_dataset("class_names", data=np.frombuffer(names, np.uint8))
        # Early allocation gives the images an offset now. Without filling, the file ends there: the
        # pixels are everything from the offset to the end of the file.
        creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        creation.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        images = file.create_dataset("images", shape, np.uint8, dcpl=creation, fill_time="never")
        offset = images.id.get_offset()
    assert memory.getbuffer().nbytes == offset, "HDF5 put something behind the images"
    return memory.getvalue()


class PreparedRecord(Settings, extra="ignore"):
    """The part of a dataset's record that commands use."""

    settings: DatasetSettings
    digest: str
    seen: str = ""
    """`Source.seen` at the preparation."""


def described_dataset(path: Path) -> dict[str, Any]:
    """Return the dataset settings of a prepared file. Raises UserError without a whole record."""
    ImageStore.open(path)
    record = path.with_suffix(".json")
    missing = f"no such file, which says what is in {path.name}; {AGAIN}"
    wrong = f"{record}: not the record of a dataset; {AGAIN}"
    return read_record(PreparedRecord, record, wrong, missing).settings.model_dump(mode="json")


# -- pixels: bytes in files, numbers in [−1, 1] in networks; images are quantized only here -------


def from_uint8(images: "Tensor") -> "Tensor":
    """uint8 → float32 in [−1, 1]: x = u / 127.5 − 1."""
    # A tensor, because CUDA multiplies by the inverse of a number, which loses a bit.
    levels = images.float()
    return levels / levels.new_full((), 127.5) - 1


def truncated(images: "Tensor") -> "Tensor":
    """uint8 → uint8: images as the official code writes them; 95 of 256 levels are one lower."""
    return to_uint8((images.double() / 127.5 - 1).float())


def to_uint8(x: "Tensor") -> "Tensor":
    """Numbers → uint8: u = (x/2 + 1/2) · 255, clipped to [0, 255] and truncated.

    The official code truncates instead of rounding, which makes images half a level darker on
    average and changes the FID. In float32 `to_uint8(from_uint8(u))` is u or, if u/127.5 is
    rounded down, u − 1.
    """
    return ((x * 0.5 + 0.5) * 255).clamp(0, 255).byte()
