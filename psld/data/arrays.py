"""Sources of arrays: scikit-learn's digits, MNIST, Fashion-MNIST and CIFAR-10."""

import gzip
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from tempfile import NamedTemporaryFile
from types import ModuleType

import numpy as np

from psld.data.picture import central_square
from psld.data.settings import CIFAR10Source, FashionMNISTSource, MNISTSource
from psld.data.source import Picture, Source, pictures_in_memory
from psld.utils.errors import RunError, UserError, reraise_fault


def open_digits() -> Source:
    """Return scikit-learn's 1,797 digits, 8×8: every fifth of the images sorted by class is a test.

    The file itself repeats 0…9, so every fifth of it would be a zero or a five.
    """
    # Importing scikit-learn itself takes a second.
    sklearn = find_spec("sklearn")
    if sklearn is None:
        raise UserError(
            "dataset=digits: the images are part of scikit-learn; pip install 'psld[workflow]'"
        )
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
        with torchvision_datasets(advice) as datasets:
            getattr(datasets, loader)(root, download=True)
        paths = [_find_idx(root, loader, name) for name in _FILES]
    if None in paths:
        missing = files[paths.index(None)]
        raise UserError(f"{root}: no {missing}; {advice}, or allow dataset.source.download=true")
    train, test = (_idx_split(*pair, settings.pad) for pair in (paths[:2], paths[2:]))
    return Source(train, test, class_names)


def _find_idx(root: Path, loader: str, name: str) -> Path | None:
    """Find the user's own file, or the one that torchvision unpacked from a checked download."""
    candidates = (root / f"{name}.gz", root / name, root / loader / "raw" / name)
    return next((path for path in candidates if path.is_file()), None)


def _idx_split(images_path: Path, labels_path: Path, pad: int | None) -> list[Picture]:
    images, labels = read_idx(images_path), read_idx(labels_path)
    if len(images) != len(labels):
        raise UserError(
            f"{labels_path}: {len(labels)} labels, but {len(images)} images in {images_path.name}"
        )
    if pad is None:
        return pictures_in_memory(images, labels)
    return pictures_in_memory(images, labels, partial(central_square, side=pad))


def read_idx(path: Path) -> np.ndarray:
    """Read the images or the labels of an IDX file. Raises UserError if it is damaged."""
    from torchvision.datasets.mnist import read_image_file, read_label_file

    read = read_image_file if "images" in path.name else read_label_file
    opened = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rb") as packed, NamedTemporaryFile() as unpacked:
            unpacked.write(packed.read())
            unpacked.flush()
            return read(unpacked.name).numpy()
    except Exception as error:  # torchvision's assertions say nothing.
        reraise_fault(error, path)
        reason = str(error) or "of another kind"
        raise UserError(f"{path}: not a whole IDX file ({reason}); get it again") from None


# -- CIFAR-10


def open_cifar10(settings: CIFAR10Source) -> Source:
    """Return 50,000 images to train and 10,000 to test, in the order of the batches.

    The batches are pickles, which torchvision reads only if their checksums are right.
    """
    root = Path(settings.root)
    advice = (
        "put cifar-10-python.tar.gz of www.cs.toronto.edu/~kriz/cifar.html into "
        f"{root}, or set dataset.source.root"
    )
    with torchvision_datasets(advice) as datasets:
        train = datasets.CIFAR10(root, train=True, download=settings.download)
        test = datasets.CIFAR10(root, train=False)
    return Source(
        train=pictures_in_memory(train.data, train.targets),
        test=pictures_in_memory(test.data, test.targets),
        class_names=tuple(train.classes),
    )


@contextmanager
def torchvision_datasets(advice: str) -> Iterator[ModuleType]:
    """Yield torchvision.datasets; turn its errors into a RunError that ends with `advice`."""
    # torchvision imports torch, which nothing else in the preparation needs.
    import torchvision.datasets

    try:
        yield torchvision.datasets
    except (OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise RunError(f"the dataset cannot be loaded ({reason}); {advice}") from None
