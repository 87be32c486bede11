"""MNIST and Fashion-MNIST: four files in the IDX format, which holds one array each.

IDX: two zero bytes, the type (8: uint8), the number of dimensions, each dimension as a big-endian
32-bit integer, the data.
"""

import gzip
import math
import struct
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from psld.data.download import torchvision_downloads
from psld.data.settings import FashionMNISTSource, MNISTSource
from psld.data.source import Source, source_of_arrays
from psld.utils.errors import UserError
from psld.utils.files import sha256_of_file

DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")

_FILES = {
    split: (f"{prefix}-images-idx3-ubyte", f"{prefix}-labels-idx1-ubyte")
    for split, prefix in (("train", "train"), ("test", "t10k"))
}

_DIGIT_NAMES = tuple("0123456789")
_CLOTHES_NAMES = (
    "T-shirt/top",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)


def open_mnist(settings: MNISTSource) -> Source:
    return _open(
        Path(settings.root),
        settings,
        loader="MNIST",
        class_names=_DIGIT_NAMES,
        origin="the MNIST page (yann.lecun.com/exdb/mnist)",
    )


def open_fashion_mnist(settings: FashionMNISTSource) -> Source:
    if settings.root is not None:
        root = Path(settings.root)
    else:
        root = DEBIAN_FOLDER if DEBIAN_FOLDER.is_dir() else Path("downloads/fashion-mnist")
    return _open(
        root,
        settings,
        loader="FashionMNIST",
        class_names=_CLOTHES_NAMES,
        origin="github.com/zalandoresearch/fashion-mnist or Debian's package dataset-fashion-mnist",
    )


def _open(
    root: Path,
    settings: MNISTSource | FashionMNISTSource,
    loader: str,
    class_names: tuple[str, ...],
    origin: str,
) -> Source:
    """`loader` is torchvision's class, and the folder in which it leaves its downloads."""
    wanted = [name for names in _FILES.values() for name in names]
    advice = (
        f"put the four files {wanted[0]}.gz, {wanted[1]}.gz, {wanted[2]}.gz and {wanted[3]}.gz of "
        f"{origin} into {root}, or set dataset.source.root"
    )
    if settings.download and not all(_find(root, loader, name) for name in wanted):
        with torchvision_downloads(advice=advice) as datasets:
            getattr(datasets, loader)(root, download=True)
    paths = {name: _find(root, loader, name) for name in wanted}
    missing = [name for name, path in paths.items() if path is None]
    if missing:
        raise UserError(
            f"{root}: no {missing[0]}.gz; {advice}, or allow dataset.source.download=true"
        )
    arrays = {
        split: _read_split(paths[images], paths[labels])
        for split, (images, labels) in _FILES.items()
    }
    source = source_of_arrays(
        arrays["train"],
        arrays["test"],
        class_names,
        checksums={path.name: sha256_of_file(path) for path in paths.values()},
    )
    if settings.pad is None:
        return source
    return replace(source, read=lambda i: _pad(source.read(i), settings.pad))


def _find(root: Path, loader: str, name: str) -> Path | None:
    """The user's own file, or what torchvision unpacked: it does that to checked downloads only."""
    candidates = (root / f"{name}.gz", root / name, root / loader / "raw" / name)
    return next((path for path in candidates if path.is_file()), None)


def _read_split(images_path: Path, labels_path: Path) -> tuple[np.ndarray, np.ndarray]:
    images = read_idx(images_path, ndim=3)
    labels = read_idx(labels_path, ndim=1)
    if len(images) != len(labels):
        raise UserError(
            f"{labels_path}: {len(labels)} labels, but {len(images)} images in {images_path.name}"
        )
    return images, labels


def read_idx(path: Path, ndim: int) -> np.ndarray:
    """The uint8 array of an IDX file. Raises UserError when it is damaged or of another kind."""
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: not a whole gzip file ({error}); get it anew") from None
    start = 4 + 4 * ndim
    if data[:4] != bytes([0, 0, 8, ndim]) or len(data) < start:
        raise UserError(f"{path}: not an IDX file of uint8 in {ndim} dimensions; get it anew")
    shape = struct.unpack(f">{ndim}I", data[4:start])
    if len(data) - start != math.prod(shape):
        raise UserError(
            f"{path}: {len(data) - start} bytes where its header promises {math.prod(shape)}; "
            "get it anew"
        )
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def _pad(image: Image.Image, side: int) -> Image.Image:
    padded = Image.new(image.mode, (side, side))
    padded.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return padded
