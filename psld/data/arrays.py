"""Sources of arrays: scikit-learn's digits, MNIST, Fashion-MNIST and CIFAR-10."""

import gzip
import io
import math
import pickle
import struct
import tarfile
import zlib
from functools import partial
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from psld.data.picture import central_square
from psld.data.settings import CIFAR10Source, FashionMNISTSource, MNISTSource
from psld.data.source import Picture, Source, pictures_in_memory, torchvision_downloads
from psld.utils.errors import UserError
from psld.utils.files import sha256_of_file


def open_digits() -> Source:
    """Return scikit-learn's 1,797 digits, 8×8: every fifth of the images sorted by class is a test.

    The file itself repeats 0…9, so every fifth of it would be a zero or a five.
    """
    # Importing scikit-learn itself takes a second.
    sklearn = find_spec("sklearn")
    if sklearn is None:
        raise UserError("dataset=digits: the images are part of scikit-learn; install it")
    path = Path(sklearn.submodule_search_locations[0]) / "datasets" / "data" / "digits.csv.gz"
    # Each line has the 64 values of an image, then its class.
    lines = np.loadtxt(path, delimiter=",")
    images = np.round(lines[:, :-1].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    labels = lines[:, -1].astype(int)
    in_test = np.zeros(len(images), dtype=bool)
    in_test[np.argsort(labels, kind="stable")[::5]] = True
    return Source(
        train=pictures_in_memory(images[~in_test], labels[~in_test]),
        test=pictures_in_memory(images[in_test], labels[in_test]),
        class_names=tuple("0123456789"),
        checksums={path.name: sha256_of_file(path)},
    )


# -- MNIST and Fashion-MNIST

DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")

_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)

_CLOTHES_NAMES = (
    "T-shirt/top", "trouser", "pullover", "dress", "coat",
    "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip


def open_idx(settings: MNISTSource | FashionMNISTSource) -> Source:
    """Return 60,000 images to train and 10,000 to test, in the order of the files."""
    # `loader` is the name of torchvision's class, and of the folder of its downloads.
    if settings.kind == "mnist":
        loader, class_names = "MNIST", tuple("0123456789")
        origin = "the MNIST page (yann.lecun.com/exdb/mnist)"
    else:
        loader, class_names = "FashionMNIST", _CLOTHES_NAMES
        origin = (
            "github.com/zalandoresearch/fashion-mnist or Debian's package dataset-fashion-mnist"
        )
    if settings.root is not None:
        root = Path(settings.root)
    else:
        root = DEBIAN_FOLDER if DEBIAN_FOLDER.is_dir() else Path("downloads/fashion-mnist")
    files = [f"{name}.gz" for name in _FILES]
    advice = (
        f"put the four files {', '.join(files[:3])} and {files[3]} of {origin} into {root}, "
        "or set dataset.source.root"
    )
    paths = [_find_idx(root, loader, name) for name in _FILES]
    if settings.download and None in paths:
        with torchvision_downloads(advice=advice) as datasets:
            getattr(datasets, loader)(root, download=True)
        paths = [_find_idx(root, loader, name) for name in _FILES]
    if None in paths:
        missing = files[paths.index(None)]
        raise UserError(f"{root}: no {missing}; {advice}, or allow dataset.source.download=true")
    checksums = {path.name: sha256_of_file(path) for path in paths}
    train, test = (_idx_split(*pair, settings.pad) for pair in (paths[:2], paths[2:]))
    return Source(train, test, class_names, checksums)


def _find_idx(root: Path, loader: str, name: str) -> Path | None:
    """Find the user's own file, or the one that torchvision unpacked from a checked download."""
    candidates = (root / f"{name}.gz", root / name, root / loader / "raw" / name)
    return next((path for path in candidates if path.is_file()), None)


def _idx_split(images_path: Path, labels_path: Path, pad: int | None) -> list[Picture]:
    images = read_idx(images_path, ndim=3)
    labels = read_idx(labels_path, ndim=1)
    if len(images) != len(labels):
        raise UserError(
            f"{labels_path}: {len(labels)} labels, but {len(images)} images in {images_path.name}"
        )
    if pad is None:
        return pictures_in_memory(images, labels)
    return pictures_in_memory(images, labels, partial(central_square, side=pad))


def read_idx(path: Path, ndim: int) -> np.ndarray:
    """Read the uint8 array of an IDX file. Raises UserError if it is damaged or of another kind.

    IDX: two zero bytes, the type (8: uint8), the number of dimensions, each dimension as a
    big-endian 32-bit integer, the data.
    """
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: not a whole gzip file ({error}); get it again") from None
    start = 4 + 4 * ndim
    if data[:4] != bytes([0, 0, 8, ndim]) or len(data) < start:
        raise UserError(f"{path}: not an IDX file of uint8 in {ndim} dimensions; get it again")
    shape = struct.unpack(f">{ndim}I", data[4:start])
    if len(data) - start != math.prod(shape):
        raise UserError(
            f"{path}: {len(data) - start} bytes of data, but its header says {math.prod(shape)}; "
            "get it again"
        )
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


# -- CIFAR-10

# A batch of the binary version is a row of records: 1 byte of class, then 3×32×32 bytes of pixels.
# A batch of the Python version is a pickle, which may name any function and call it. Nothing in it
# runs here: an inert class replaces the three names that a pickled numpy array needs, and keeps the
# shape and the bytes from which the array is rebuilt. Any other name is refused.

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
    """Return 50,000 images to train and 10,000 to test, in the order of the batches."""
    root = Path(settings.root)
    advice = (
        "put cifar-10-python.tar.gz or cifar-10-binary.tar.gz of "
        f"www.cs.toronto.edu/~kriz/cifar.html into {root}, or set dataset.source.root"
    )
    if settings.download and not any((root / name).exists() for name, *_ in _VERSIONS):
        with torchvision_downloads(root / "cifar-10-python.tar.gz", advice=advice) as datasets:
            datasets.CIFAR10(root, download=True)
    versions = [version for version in _VERSIONS if (root / version[0]).exists()]
    if not versions:
        raise UserError(
            f"{root}: no CIFAR-10 in it; {advice}, or allow dataset.source.download=true"
        )
    name, suffix, read_batch = versions[0]
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
        batches.append(
            pictures_in_memory(pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), labels)
        )
    digested = [path / name for name in files] if path.is_dir() else [path]
    checksums = {file.name: sha256_of_file(file) for file in digested}
    train = [picture for batch in batches[:-1] for picture in batch]
    return Source(train, batches[-1], CLASSES, checksums)


def _read_files(path: Path, names: list[str]) -> dict[str, bytes | None]:
    """Read the files from a folder or archive; None for a missing file."""
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
