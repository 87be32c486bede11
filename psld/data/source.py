"""The sources of a dataset's images: published datasets, and any folder of pictures."""

import gzip
import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from types import ModuleType

import numpy as np
from PIL import Image

from psld.data.images import FileTree, Frame, bytes_of
from psld.data.installed import DIGITS, Arrays, read_digits, read_emoji, read_photos
from psld.data.settings import (
    AFHQv2Source,
    CelebASource,
    CIFAR10Source,
    DigitsSource,
    EmojiSource,
    FashionMNISTSource,
    FolderSource,
    MNISTSource,
    PhotosSource,
    SourceSettings,
)
from psld.utils.errors import RunError, UserError, reraise_fault


@dataclass(frozen=True, eq=False)
class Picture:
    """An image that is read when it is needed."""

    read: Callable[[], Image.Image]
    """The image, framed but not resized. Called from several threads. Raises UserError."""
    label: int = 0
    """An index of `class_names`; 0 if the source has no classes."""


@dataclass(frozen=True)
class Source:
    """The images of a dataset."""

    train: Sequence[Picture]
    test: Sequence[Picture]
    class_names: tuple[str, ...]
    """Empty if the source has no classes."""
    listing: dict[str, int | str] | None = None
    """`FileTree.listing` of pictures that people may add to; None for a published dataset."""


def open_source(settings: SourceSettings) -> Source:
    """Find the files of a source; download them if that is allowed.

    Raises UserError that says what to get if files are missing or damaged, and RunError if a
    download fails.
    """
    match settings:
        case DigitsSource():
            return divided(read_digits())
        case PhotosSource():
            return divided(read_photos(settings.side))
        case EmojiSource():
            return divided(read_emoji(Path(settings.root)))
        case MNISTSource():  # or FashionMNISTSource
            return open_idx(settings)
        case CIFAR10Source():
            return open_cifar10(settings)
        case CelebASource():
            return open_celeba(settings)
        case AFHQv2Source():
            return open_afhqv2(settings)
        case FolderSource():
            return open_folder(settings)


def as_it_is(image: Image.Image) -> Image.Image:
    return image


def central_square(image: Image.Image, side: int | None = None) -> Image.Image:
    """Cut out the central square of `side` pixels, by default the picture's shorter side.

    A smaller picture is surrounded by black.
    """
    side = side or min(image.size)
    left, top = int((image.width - side) / 2), int((image.height - side) / 2)
    return image.crop((left, top, left + side, top + side))


def resized_square(image: Image.Image, side: int) -> Image.Image:
    """Return the central square of a gray or RGB picture, resized as `psld prepare` does."""
    return central_square(image).resize((side, side), Image.Resampling.LANCZOS)


# -- arrays ---------------------------------------------------------------------------------------

CLOTHES = (
    "T-shirt/top", "trouser", "pullover", "dress", "coat",
    "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip

DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")

IDX_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


def in_memory(images: np.ndarray, labels: np.ndarray, frame: Frame = as_it_is) -> list[Picture]:
    """Return uint8 images, n×H×W for gray or n×H×W×3 for RGB, as pictures."""

    def picture(image: np.ndarray, label: int) -> Picture:
        return Picture(lambda: frame(Image.fromarray(image)), int(label))

    return list(map(picture, images, labels))


def divided(arrays: Arrays) -> Source:
    """Return images in memory as a source."""
    images, labels, in_test, class_names = arrays
    train, test = (in_memory(images[chosen], labels[chosen]) for chosen in (~in_test, in_test))
    return Source(train, test, class_names)


def open_idx(settings: MNISTSource | FashionMNISTSource) -> Source:
    """Return 60,000 images to train and 10,000 to test, in the order of the files."""
    # `loader` is the name of torchvision's class, and of the folder of its downloads.
    if settings.kind == "mnist":
        loader, class_names = "MNIST", DIGITS
        origin = "the MNIST page (yann.lecun.com/exdb/mnist)"
    else:
        loader, class_names = "FashionMNIST", CLOTHES
        origin = (
            "github.com/zalandoresearch/fashion-mnist or Debian's package dataset-fashion-mnist"
        )
    default = DEBIAN_FOLDER if DEBIAN_FOLDER.is_dir() else "downloads/fashion-mnist"
    root = Path(settings.root or default)
    files = [f"{name}.gz" for name in IDX_FILES]
    advice = (
        f"put the four files {', '.join(files[:3])} and {files[3]} of {origin} into {root}, "
        "or set dataset.source.root"
    )

    def found() -> list[Path | None]:
        """Find the user's own files, or those that torchvision unpacked from its download."""
        folders = [
            (root / f"{name}.gz", root / name, root / loader / "raw" / name) for name in IDX_FILES
        ]
        return [next((path for path in each if path.is_file()), None) for each in folders]

    paths = found()
    if settings.download and None in paths:
        with torchvision_datasets(advice) as datasets:
            getattr(datasets, loader)(root, download=True)
        paths = found()
    if None in paths:
        missing = files[paths.index(None)]
        raise UserError(f"{root}: no {missing}; {advice}, or allow dataset.source.download=true")
    train, test = (_idx_split(a, b, settings.pad) for a, b in (paths[:2], paths[2:]) if a and b)
    return Source(train, test, class_names)


def _idx_split(images_path: Path, labels_path: Path, pad: int | None) -> list[Picture]:
    images, labels = read_idx(images_path), read_idx(labels_path)
    if len(images) != len(labels):
        raise UserError(
            f"{labels_path}: {len(labels)} labels, but {len(images)} images in {images_path.name}"
        )
    return in_memory(images, labels, partial(central_square, side=pad) if pad else as_it_is)


def read_idx(path: Path) -> np.ndarray:
    """Read the images or the labels of an IDX file. Raises UserError if it is damaged."""
    opened = gzip.open if path.suffix == ".gz" else open
    dimensions = 3 if "images" in path.name else 1
    try:
        with opened(path, "rb") as file:
            data = file.read()
        if data[:4] != bytes([0, 0, 8, dimensions]):
            raise ValueError(f"not bytes in {dimensions} dimensions")
        shape = np.frombuffer(data, ">i4", dimensions, offset=4)
        return np.frombuffer(data, np.uint8, offset=4 + 4 * dimensions).reshape(shape)
    except Exception as error:  # Unpacking can raise nearly any for a damaged file.
        reraise_fault(error, path)
        raise UserError(f"{path}: not a whole IDX file ({error}); get it again") from None


def open_cifar10(settings: CIFAR10Source) -> Source:
    """Return 50,000 images to train and 10,000 to test, in the order of the batches."""
    # The batches are pickles, which torchvision reads only if their checksums are right.
    root = Path(settings.root)
    advice = (
        "put cifar-10-python.tar.gz of www.cs.toronto.edu/~kriz/cifar.html into "
        f"{root}, or set dataset.source.root"
    )
    with torchvision_datasets(advice, settings.download) as datasets:
        parts = [
            datasets.CIFAR10(root, train=True, download=settings.download),
            datasets.CIFAR10(root, train=False),
        ]
    train, test = (in_memory(part.data, part.targets) for part in parts)
    return Source(train, test, tuple(parts[0].classes))


@contextmanager
def torchvision_datasets(advice: str, download: bool = True) -> Iterator[ModuleType]:
    """Yield torchvision.datasets; its errors become one line that ends with `advice`.

    Raises RunError; UserError if files are missing or damaged and may not be downloaded.
    """
    # torchvision imports torch, which nothing else in the preparation needs.
    import torchvision.datasets

    try:
        yield torchvision.datasets
    except (OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        wrong = isinstance(error, (RuntimeError, FileNotFoundError)) and not download
        kind = UserError if wrong else RunError
        raise kind(f"the dataset cannot be loaded ({reason}); {advice}") from None


# -- pictures -------------------------------------------------------------------------------------

AFHQV2_CLASSES = ("dog", "cat", "wild")
"""In the order of the official PSLD code, so that labels agree with its classifiers."""


def in_tree(tree: FileTree, name: str, label: int = 0, frame: Frame = central_square) -> Picture:
    """Return a picture that is read from its own file."""
    return Picture(lambda: frame(tree.picture(name)), label)


def published(root: str, archive: str, folder: str, advice: str) -> Path:
    """Return the archive of a published dataset, or the folder that is unpacked from it.

    The archive comes first, because the folder may be unpacked only in part. Raises UserError.
    """
    for path in (Path(root, archive), Path(root, folder)):
        if path.exists():
            return path
    raise UserError(
        f"{root}: neither {archive} nor a folder {folder} in it; {advice} into {root}, "
        "or set dataset.source.root"
    )


def open_celeba(settings: CelebASource) -> Source:
    """Return all 202,599 aligned pictures of CelebA, 178×218, in the order of their names."""
    archive, folder = "img_align_celeba.zip", "img_align_celeba"
    page = "the CelebA project page (mmlab.ie.cuhk.edu.hk/projects/CelebA.html, Align&Cropped"
    tree = FileTree(published(settings.root, archive, folder, f"put {archive} of {page} Images)"))
    return Source([in_tree(tree, name, frame=as_it_is) for name in tree.picture_names()], [], ())


def open_afhqv2(settings: AFHQv2Source) -> Source:
    """Return the animal faces of StarGAN v2: PNGs of 512×512 in train/CLASS/ and test/CLASS/."""
    path = published(
        settings.root,
        "afhq_v2.zip",
        "train",
        "get the archive with `bash download.sh afhq-v2-dataset` of github.com/clovaai/stargan-v2 "
        "and put it, or the unpacked folders train and test,",
    )
    tree = FileTree(path.parent if path.is_dir() else path)
    names = tree.picture_names()

    def pictures(split: str) -> Iterator[Picture]:
        for label, kind in enumerate(AFHQV2_CLASSES):
            # The archive may hold the two folders inside another one.
            inside = [name for name in names if PurePosixPath(name).parts[-3:-1] == (split, kind)]
            if not inside:
                wrong = f"no pictures in {split}/{kind}; unpack or get it again"
                raise UserError(f"{tree.path}: {wrong}")
            yield from (in_tree(tree, name, label) for name in inside)

    return Source(list(pictures("train")), list(pictures("test")), AFHQV2_CLASSES)


def open_folder(settings: FolderSource) -> Source:
    """Return the central squares of all pictures; the first level of subfolders are the classes.

    A single folder around all of them is left out: most tools pack one into a zip archive.
    """
    tree = FileTree(Path(settings.root))
    parts = {name: PurePosixPath(name).parts for name in tree.picture_names()}
    while len({part[0] for part in parts.values()}) == 1 and min(map(len, parts.values())) > 2:
        parts = {name: part[1:] for name, part in parts.items()}
    # Subfolders are classes if every picture lies in one.
    in_classes = all(len(part) > 1 for part in parts.values())
    classes = sorted({part[0] for part in parts.values()}) if in_classes else []

    def pictures(names: list[str]) -> list[Picture]:
        return [
            in_tree(tree, name, classes.index(parts[name][0]) if classes else 0) for name in names
        ]

    # The names with the smallest hashes are held out. The choice does not depend on the order of
    # the names, and new pictures move few old ones.
    by_hash = sorted(parts, key=lambda name: hashlib.sha256(bytes_of(name)).digest())
    held_out = set(by_hash[: round(settings.test_fraction * len(parts))])
    train = pictures([name for name in parts if name not in held_out])
    test = pictures(sorted(held_out))
    class_names = tuple(bytes_of(name).decode(errors="replace") for name in classes)
    return Source(train, test, class_names, tree.listing())
