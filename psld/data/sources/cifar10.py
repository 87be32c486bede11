"""CIFAR-10 in its binary or its Python version, as the archive or unpacked.

A batch of the binary version is a row of records: 1 byte of class, then 3×32×32 bytes of pixels.
"""

import tarfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from psld.data.archive import sha256_with_progress
from psld.data.download import torchvision_downloads
from psld.data.settings import CIFAR10Source
from psld.data.source import Source, source_of_arrays
from psld.data.sources.cifar_pickle import read_pickled_batch
from psld.utils.errors import UserError

Batch = tuple[np.ndarray, np.ndarray]
"""Pixels, uint8 (n, 3·32·32) with all reds first, and classes (n,)."""

_TRAIN = [f"data_batch_{i}" for i in range(1, 6)]
_TEST = ["test_batch"]
_RECORD = 1 + 3 * 32 * 32

_CLASS_NAMES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)


@dataclass(frozen=True)
class _Version:
    archive: str
    folder: str
    suffix: str
    """Ending of a batch's file name."""
    read_batch: Callable[[bytes], Batch]
    """Raises ValueError when the bytes are no batch."""


def open_cifar10(settings: CIFAR10Source) -> Source:
    """50,000 images to train and 10,000 to test, in the order of the batches."""
    root = Path(settings.root)
    advice = (
        "put cifar-10-python.tar.gz or cifar-10-binary.tar.gz of "
        f"www.cs.toronto.edu/~kriz/cifar.html into {root}, or set dataset.source.root"
    )
    found = _find(root)
    if found is None and settings.download:
        with torchvision_downloads(root / "cifar-10-python.tar.gz", advice=advice) as datasets:
            datasets.CIFAR10(root, download=True)
        found = _find(root)
    if found is None:
        raise UserError(
            f"{root}: no CIFAR-10 in it; {advice}, or allow dataset.source.download=true"
        )
    path, version = found
    wanted = [f"{name}{version.suffix}" for name in (*_TRAIN, *_TEST)]
    files = _read_folder(path, wanted) if path.is_dir() else _read_archive(path, wanted)
    batches = {name: _parse(version, path, name, data) for name, data in files}
    missing = [name for name in wanted if name not in batches]
    if missing:
        raise UserError(f"{path}: no {missing[0]} in it; get it anew")
    train = [batches[name] for name in wanted[: len(_TRAIN)]]
    test = [batches[name] for name in wanted[len(_TRAIN) :]]
    return source_of_arrays(_join(train), _join(test), _CLASS_NAMES, _checksums(path, wanted))


def _read_binary_batch(data: bytes) -> Batch:
    if not data or len(data) % _RECORD:
        raise ValueError(f"its {len(data)} bytes are not records of {_RECORD}")
    records = np.frombuffer(data, np.uint8).reshape(-1, _RECORD)
    return records[:, 1:], records[:, 0]


_VERSIONS = (
    _Version("cifar-10-binary.tar.gz", "cifar-10-batches-bin", ".bin", _read_binary_batch),
    _Version("cifar-10-python.tar.gz", "cifar-10-batches-py", "", read_pickled_batch),
)


def _find(root: Path) -> tuple[Path, _Version] | None:
    """An archive rather than a folder, which may have been unpacked half."""
    archives = [(root / version.archive, version) for version in _VERSIONS]
    folders = [(root / version.folder, version) for version in _VERSIONS]
    return next((found for found in archives + folders if found[0].exists()), None)


def _read_folder(folder: Path, wanted: list[str]) -> Iterator[tuple[str, bytes]]:
    for name in wanted:
        if (folder / name).is_file():
            yield name, (folder / name).read_bytes()


def _read_archive(path: Path, wanted: list[str]) -> Iterator[tuple[str, bytes]]:
    try:
        with tarfile.open(path, "r:gz") as archive:
            for member in archive:
                name = PurePosixPath(member.name).name
                if name in wanted and member.isfile():
                    yield name, archive.extractfile(member).read()
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: not a whole .tar.gz ({error}); get it anew") from None


def _checksums(path: Path, wanted: list[str]) -> dict[str, str]:
    files = [path / name for name in wanted] if path.is_dir() else [path]
    return {file.name: sha256_with_progress(file) for file in files}


def _parse(version: _Version, path: Path, name: str, data: bytes) -> Batch:
    try:
        pixels, labels = version.read_batch(data)
    except ValueError as error:
        raise UserError(f"{path}/{name}: not a batch of CIFAR-10 ({error}); get it anew") from None
    if labels.max() >= len(_CLASS_NAMES):
        raise UserError(f"{path}/{name}: class {labels.max()}, but CIFAR-10 has 10; get it anew")
    return pixels, labels


def _join(batches: list[Batch]) -> tuple[np.ndarray, np.ndarray]:
    """Images (n, 32, 32, 3) and classes (n,)."""
    pixels = np.concatenate([pixels for pixels, _ in batches])
    labels = np.concatenate([labels for _, labels in batches])
    return pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), labels
