"""MNIST and Fashion-MNIST: four files in the IDX format, which holds one array each.

IDX: two zero bytes, the type (8: uint8), the number of dimensions, each dimension as a big-endian
32-bit integer, the data.
"""

import gzip
import math
import struct
import zlib
from functools import partial
from pathlib import Path

import numpy as np

from psld.data.archive import torchvision_downloads
from psld.data.picture import central_square
from psld.data.settings import FashionMNISTSource, MNISTSource
from psld.data.source import Picture, Source, pictures_of
from psld.utils.errors import UserError
from psld.utils.files import sha256_of_file

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
    """60,000 images to train and 10,000 to test, in the order of the files."""
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
    paths = [_find(root, loader, name) for name in _FILES]
    if settings.download and None in paths:
        with torchvision_downloads(advice=advice) as datasets:
            getattr(datasets, loader)(root, download=True)
        paths = [_find(root, loader, name) for name in _FILES]
    if None in paths:
        missing = files[paths.index(None)]
        raise UserError(f"{root}: no {missing}; {advice}, or allow dataset.source.download=true")
    checksums = {path.name: sha256_of_file(path) for path in paths}
    train, test = _split(*paths[:2], settings.pad), _split(*paths[2:], settings.pad)
    return Source(train, test, class_names, checksums)


def _find(root: Path, loader: str, name: str) -> Path | None:
    """Find the user's own file, or the one that torchvision unpacked from a checked download."""
    candidates = (root / f"{name}.gz", root / name, root / loader / "raw" / name)
    return next((path for path in candidates if path.is_file()), None)


def _split(images_path: Path, labels_path: Path, pad: int | None) -> list[Picture]:
    images = read_idx(images_path, ndim=3)
    labels = read_idx(labels_path, ndim=1)
    if len(images) != len(labels):
        raise UserError(
            f"{labels_path}: {len(labels)} labels, but {len(images)} images in {images_path.name}"
        )
    if pad is None:
        return pictures_of(images, labels)
    return pictures_of(images, labels, partial(central_square, side=pad))


def read_idx(path: Path, ndim: int) -> np.ndarray:
    """Read the uint8 array of an IDX file. Raises UserError if it is damaged or of another kind."""
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
