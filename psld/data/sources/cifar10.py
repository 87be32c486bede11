"""CIFAR-10 in its binary or its Python version, as the archive or unpacked.

A batch of the binary version is a row of records: 1 byte of class, then 3×32×32 bytes of pixels.

A batch of the Python version is a pickle, which may name any function and call it. Nothing in it
runs here: an inert class replaces the three names that a pickled numpy array needs, and keeps the
shape and the bytes from which the array is rebuilt. Any other name is refused.
"""

import io
import pickle
import tarfile
import zlib
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from psld.data.archive import torchvision_downloads
from psld.data.settings import CIFAR10Source
from psld.data.source import Source, pictures_of
from psld.utils.errors import UserError
from psld.utils.files import sha256_of_file

Batch = tuple[np.ndarray, np.ndarray]
"""Pixels, uint8 (n, 3·32·32) with all reds first, and classes (n,)."""

_BATCHES = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")
_RECORD = 1 + 3 * 32 * 32

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def _read_binary_batch(data: bytes) -> Batch:
    if not data or len(data) % _RECORD:
        raise ValueError(f"its {len(data)} bytes are not records of {_RECORD}")
    records = np.frombuffer(data, np.uint8).reshape(-1, _RECORD)
    return records[:, 1:], records[:, 0]


class _Inert:
    """The arguments of a call, and the state that is set afterward."""

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments

    def __setstate__(self, state: Any) -> None:
        self.state = state


_ACCEPTED = {("numpy.core.multiarray", "_reconstruct"), ("numpy", "ndarray"), ("numpy", "dtype")}


class _InertUnpickler(pickle._Unpickler):
    """Python's own unpickler: the one in C reserves as much memory as a damaged file asks for."""

    def find_class(self, module: str, name: str) -> type[_Inert]:
        if (module, name) not in _ACCEPTED:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return _Inert


def _read_pickled_batch(data: bytes) -> Batch:
    try:
        batch = _InertUnpickler(io.BytesIO(data), encoding="bytes").load()
        _, shape, dtype, fortran, raw = batch[b"data"].state
        dtype_name = dtype.arguments[0]
        pixels = np.frombuffer(raw, np.uint8).reshape(shape, order="F" if fortran else "C")
        labels = np.array(batch[b"labels"], dtype=np.int64)
    # A damaged pickle can raise nearly any exception.
    except Exception as error:
        raise ValueError(f"{type(error).__name__}: {error}") from None
    if dtype_name != b"u1":
        raise ValueError(f"an array of {dtype_name!r}, not of uint8")
    if pixels.ndim != 2 or pixels.shape[1] != 3 * 32 * 32 or labels.shape != (len(pixels),):
        raise ValueError(f"pixels {pixels.shape} and classes {labels.shape}")
    return pixels, labels


# Name, ending of the batches, and reader. The archives come first, because a folder may be unpacked
# only in part. A reader raises ValueError for anything but a batch.
_VERSIONS = (
    ("cifar-10-binary.tar.gz", ".bin", _read_binary_batch),
    ("cifar-10-python.tar.gz", "", _read_pickled_batch),
    ("cifar-10-batches-bin", ".bin", _read_binary_batch),
    ("cifar-10-batches-py", "", _read_pickled_batch),
)


def open_cifar10(settings: CIFAR10Source) -> Source:
    """50,000 images to train and 10,000 to test, in the order of the batches."""
    root = Path(settings.root)
    advice = (
        "put cifar-10-python.tar.gz or cifar-10-binary.tar.gz of "
        f"www.cs.toronto.edu/~kriz/cifar.html into {root}, or set dataset.source.root"
    )
    found = [version for version in _VERSIONS if (root / version[0]).exists()]
    if not found and settings.download:
        with torchvision_downloads(root / "cifar-10-python.tar.gz", advice=advice) as datasets:
            datasets.CIFAR10(root, download=True)
        found = [version for version in _VERSIONS if (root / version[0]).exists()]
    if not found:
        raise UserError(
            f"{root}: no CIFAR-10 in it; {advice}, or allow dataset.source.download=true"
        )
    name, suffix, read_batch = found[0]
    path = root / name
    files = _read_files(path, [f"{batch}{suffix}" for batch in _BATCHES])
    batches = []
    for name, data in files.items():
        if data is None:
            raise UserError(f"{path}: no {name} in it; get it again")
        try:
            pixels, labels = read_batch(data)
            if labels.min() < 0 or labels.max() >= len(CLASSES):
                raise ValueError(f"classes {labels.min()} to {labels.max()}, not 0 to 9")
        except ValueError as error:
            raise UserError(
                f"{path}/{name}: not a batch of CIFAR-10 ({error}); get it again"
            ) from None
        batches.append(pictures_of(pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), labels))
    digested = [path / name for name in files] if path.is_dir() else [path]
    checksums = {file.name: sha256_of_file(file) for file in digested}
    train = [picture for batch in batches[:-1] for picture in batch]
    return Source(train, batches[-1], CLASSES, checksums)


def _read_files(path: Path, names: list[str]) -> dict[str, bytes | None]:
    """Read the files from a folder or archive; None for a file that is not there."""
    files: dict[str, bytes | None] = dict.fromkeys(names)
    if path.is_dir():
        for name in names:
            if (path / name).is_file():
                files[name] = (path / name).read_bytes()
        return files
    try:
        with tarfile.open(path, "r:gz") as archive:
            for member in archive:
                name = PurePosixPath(member.name).name
                if name in files and member.isfile():
                    files[name] = archive.extractfile(member).read()
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: not a whole .tar.gz ({error}); get it again") from None
    return files
