"""Published datasets, and any folder of pictures.

Snakemake reads their settings, so numpy, Pillow and torchvision are imported by what needs them.
"""

import gzip
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from psld.config.settings import FREE
from psld.data.settings import Images, Root, Source
from psld.utils.errors import RunError, UserError, reraise_fault

if TYPE_CHECKING:
    import numpy as np

DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")

IDX_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


class Digits(Source):
    """The 1,797 handwritten digits (8×8, 10 classes) that scikit-learn ships.

    Every fifth of the images sorted by class is a test. The file itself repeats 0…9, so every fifth
    of it would be a zero or a five.
    """

    kind: str = "digits"

    def open(self):
        import numpy as np

        sklearn: Any = find_spec("sklearn")  # Importing it takes a second.
        file = Path(sklearn.submodule_search_locations[0], "datasets/data/digits.csv.gz")
        lines = np.loadtxt(file, delimiter=",")  # each the 64 values of an image, then its class
        images = np.round(lines[:, :-1].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
        pairs = list(zip(images, lines[:, -1].astype(int), strict=True))
        test = set(np.argsort(lines[:, -1], kind="stable")[::5].tolist())
        train = [pair for i, pair in enumerate(pairs) if i not in test]
        return Images(train, [pairs[i] for i in sorted(test)], tuple("0123456789"))


class MNIST(Source):
    """MNIST: 60,000 + 10,000 handwritten digits (28×28, 10 classes), IDX files."""

    kind: str = "mnist"
    root: Annotated[Root, FREE] = "downloads/mnist"
    """Folder of the four IDX files, gzipped or not."""
    download: Annotated[bool, FREE] = True
    """Let torchvision download missing files."""
    pad: int | None = Field(None, ge=28)
    """Side, in pixels, of the black square in which the image is centered before any resizing."""

    loader: ClassVar = "MNIST"
    """The name of torchvision's class, and of the folder of its downloads."""
    origin: ClassVar = "the MNIST page (yann.lecun.com/exdb/mnist)"
    class_names: ClassVar = tuple("0123456789")

    @property
    def folder(self) -> Path:
        """The folder of the files, whether it exists or not."""
        return Path(self.root)

    def open(self):
        root, files = self.folder, [f"{name}.gz" for name in IDX_FILES]
        advice = (
            f"put the four files {', '.join(files[:3])} and {files[3]} of {self.origin} into "
            f"{root}, or set dataset.source.root"
        )

        def found() -> list[Path | None]:
            """Find the user's own files, or those that torchvision unpacked from its download."""
            folders = [
                (root / f"{name}.gz", root / name, root / self.loader / "raw" / name)
                for name in IDX_FILES
            ]
            return [next((path for path in each if path.is_file()), None) for each in folders]

        paths = found()
        if self.download and None in paths:
            with torchvision_datasets(advice) as datasets:
                getattr(datasets, self.loader)(root, download=True)
            paths = found()
        if None in paths:
            missing = files[paths.index(None)]
            wrong = f"no {missing}; {advice}, or allow dataset.source.download=true"
            raise UserError(f"{root}: {wrong}")
        train, test = (_idx_split(a, b, self.pad) for a, b in (paths[:2], paths[2:]) if a and b)
        return Images(train, test, self.class_names)


class FashionMNIST(MNIST):
    """Fashion-MNIST: 60,000 + 10,000 pictures of clothes (28×28, 10 classes), IDX files."""

    kind: str = "fashion-mnist"
    root: Annotated[Root | None, FREE] = None
    """Folder of the four IDX files, gzipped or not. Null: the folder of Debian's package
    dataset-fashion-mnist if it is installed, else downloads/fashion-mnist."""
    pad: int | None = Field(32, ge=28)

    loader = "FashionMNIST"
    origin = "github.com/zalandoresearch/fashion-mnist or Debian's package dataset-fashion-mnist"
    class_names = (
        "T-shirt/top", "trouser", "pullover", "dress", "coat",
        "sandal", "shirt", "sneaker", "bag", "ankle boot",
    )  # fmt: skip

    @property
    def folder(self):
        default = DEBIAN_FOLDER if DEBIAN_FOLDER.is_dir() else "downloads/fashion-mnist"
        return Path(self.root or default)


def _idx_split(images_path: Path, labels_path: Path, pad: int | None) -> list:
    from PIL import Image

    from psld.data.images import central_square

    images, labels = read_idx(images_path), read_idx(labels_path)
    if len(images) != len(labels):
        raise UserError(
            f"{labels_path}: {len(labels)} labels, but {len(images)} images in {images_path.name}"
        )

    def padded(pixels: "np.ndarray") -> partial:
        return partial(central_square, Image.fromarray(pixels), pad)

    return list(zip(map(padded, images) if pad else images, labels, strict=True))


def read_idx(path: Path) -> "np.ndarray":
    """Read the images or the labels of an IDX file. Raises UserError if it is damaged."""
    import numpy as np

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


class CIFAR10(Source):
    """CIFAR-10: 50,000 + 10,000 photographs (32×32, 10 classes), the Python version."""

    kind: str = "cifar10"
    root: Annotated[Root, FREE] = "downloads/cifar10"
    """Folder that holds the archive or the unpacked folder."""
    download: Annotated[bool, FREE] = True
    """Let torchvision download the archive if it is missing, and unpack it."""

    def open(self):
        # The batches are pickles, which torchvision reads only if their checksums are right.
        root = Path(self.root)
        advice = (
            "put cifar-10-python.tar.gz of www.cs.toronto.edu/~kriz/cifar.html into "
            f"{root}, or set dataset.source.root"
        )
        with torchvision_datasets(advice, self.download) as datasets:
            parts = [
                datasets.CIFAR10(root, train=True, download=self.download),
                datasets.CIFAR10(root, train=False),
            ]
        train, test = (list(zip(part.data, part.targets, strict=True)) for part in parts)
        return Images(train, test, tuple(parts[0].classes))


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


class Folder(Source):
    """The central squares of a folder's or a zip archive's pictures; subfolders are classes.

    Those of the first level, if every picture lies in one. A single folder around all of them is
    left out: most tools pack one into an archive.
    """

    kind: str = "folder"
    root: Root
    """The folder or zip archive."""
    test_fraction: float = Field(0.0, ge=0, lt=1)
    """The part of the pictures that is held out for the test split, chosen by the files' names."""

    def open(self):
        from psld.data.images import FileTree, bytes_of

        tree = FileTree(Path(self.root))
        parts = {name: PurePosixPath(name).parts for name in tree.picture_names()}
        while len({part[0] for part in parts.values()}) == 1 and min(map(len, parts.values())) > 2:
            parts = {name: part[1:] for name, part in parts.items()}
        in_classes = all(len(part) > 1 for part in parts.values())
        classes = sorted({part[0] for part in parts.values()}) if in_classes else []

        def picture(name: str) -> tuple[partial, int]:
            label = classes.index(parts[name][0]) if classes else 0
            return partial(tree.square, name), label

        # The names with the smallest hashes are held out. The choice does not depend on the order
        # of the names, and new pictures move few old ones.
        by_hash = sorted(parts, key=lambda name: hashlib.sha256(bytes_of(name)).digest())
        held_out = set(by_hash[: round(self.test_fraction * len(parts))])
        train = [picture(name) for name in parts if name not in held_out]
        test = [picture(name) for name in sorted(held_out)]
        class_names = tuple(bytes_of(name).decode(errors="replace") for name in classes)
        return Images(train, test, class_names)

    def seen(self):
        from psld.data.images import FileTree

        return FileTree(Path(self.root)).listing()
