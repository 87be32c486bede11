"""Sources of images: published datasets, folders of pictures, arrays, Hugging Face datasets.

Snakemake imports these settings, so numpy, Pillow and torchvision are imported only where needed.
"""

import gzip
import hashlib
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from psld.config.settings import FREE, Name
from psld.data.settings import Images, Root, Source
from psld.utils.errors import RunError, UserError, reading
from psld.utils.files import regular_file

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

    Every fifth image, after sorting by class, is a test image. Without sorting, most test images
    would be zeros and fives, because the file repeats the classes 0…9.
    """

    kind: str = "digits"

    def open(self):
        import numpy as np

        # Find the file without importing scikit-learn, which would take a second.
        sklearn: Any = find_spec("sklearn")
        file = Path(sklearn.submodule_search_locations[0], "datasets/data/digits.csv.gz")
        lines = np.loadtxt(file, delimiter=",")  # 64 pixels and the class per line
        images = np.round(lines[:, :-1].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
        pairs = list(zip(images, lines[:, -1].astype(int), strict=True))
        test = set(np.argsort(lines[:, -1], kind="stable")[::5].tolist())
        train = [pair for i, pair in enumerate(pairs) if i not in test]
        return Images(train, [pairs[i] for i in sorted(test)], tuple("0123456789"))


class MNIST(Source):
    """MNIST: 60,000 training and 10,000 test images of digits (28×28, 10 classes), as IDX files."""

    kind: str = "mnist"
    root: Annotated[Root, FREE] = "downloads/mnist"
    """Folder with the four IDX files, gzipped or not."""
    download: Annotated[bool, FREE] = True
    """Let torchvision download missing files."""
    pad: int | None = Field(None, ge=28)
    """Before any resizing, center each image in a black square with a side of this many pixels."""

    loader: ClassVar = "MNIST"
    """Name of the torchvision class and of its download folder."""
    origin: ClassVar = "the MNIST page (yann.lecun.com/exdb/mnist)"
    class_names: ClassVar = tuple("0123456789")

    @property
    def folder(self) -> Path:
        """Folder of the IDX files. The folder need not exist."""
        return Path(self.root)

    def open(self):
        root, files = self.folder, [f"{name}.gz" for name in IDX_FILES]
        advice = (
            f"put the four files {', '.join(files[:3])} and {files[3]} of {self.origin} into "
            f"{root}, or set dataset.source.root"
        )

        def find(name: str) -> Path | None:
            """Return the path in `root` or torchvision's folder; None if there is no such file."""
            places = (root / f"{name}.gz", root / name, root / self.loader / "raw" / name)
            return next(filter(Path.is_file, places), None)

        paths = [*map(find, IDX_FILES)]
        if self.download and None in paths:
            with torchvision_datasets(advice) as datasets:
                getattr(datasets, self.loader)(root, download=True)
            paths = [*map(find, IDX_FILES)]
        if None in paths:
            missing = files[paths.index(None)]
            wrong = f"no {missing}; {advice}, or dataset.source.download=true"
            raise UserError(f"{root}: {wrong}")
        train, test = (_idx_split(a, b, self.pad) for a, b in (paths[:2], paths[2:]) if a and b)
        return Images(train, test, self.class_names)


class FashionMNIST(MNIST):
    """Fashion-MNIST: 60,000 training and 10,000 test images of clothes (28×28, 10 classes)."""

    kind: str = "fashion-mnist"
    root: Annotated[Root | None, FREE] = None
    """Folder with the four IDX files, gzipped or not. Null: the folder of Debian's package
    dataset-fashion-mnist if the package is installed, else downloads/fashion-mnist."""
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
    if pad:
        images = [partial(central_square, Image.fromarray(pixels), pad) for pixels in images]
    return list(zip(images, labels, strict=True))


def read_idx(path: Path) -> "np.ndarray":
    """Read the images or the labels of an IDX file. Raises UserError if the file is damaged."""
    import numpy as np

    opened = gzip.open if path.suffix == ".gz" else open
    dimensions = 3 if "images" in path.name else 1
    with reading(path, "not a valid IDX file", "; download it again"), opened(path, "rb") as file:
        data = file.read()
        if data[:4] != bytes([0, 0, 8, dimensions]):
            raise ValueError(f"not bytes in {dimensions} dimensions")
        shape = np.frombuffer(data, ">i4", dimensions, offset=4)
        return np.frombuffer(data, np.uint8, offset=4 + 4 * dimensions).reshape(shape)


class CIFAR10(Source):
    """CIFAR-10 (Python version): 50,000 training and 10,000 test images (32×32, 10 classes)."""

    kind: str = "cifar10"
    root: Annotated[Root, FREE] = "downloads/cifar10"
    """Folder that contains the archive or the unpacked archive."""
    download: Annotated[bool, FREE] = True
    """Let torchvision download a missing archive and unpack it."""

    def open(self):
        # Unpickling the batches is safe, because torchvision verifies their checksums first.
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
    """Yield torchvision.datasets. Errors are raised as one line that ends with `advice`.

    With `download=False`, missing or damaged files raise UserError. Other errors raise RunError.
    """
    # Import torchvision late, because it imports torch, which other sources do not need.
    import torchvision.datasets

    try:
        yield torchvision.datasets
    except (OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        wrong = isinstance(error, (RuntimeError, FileNotFoundError)) and not download
        kind = UserError if wrong else RunError
        raise kind(f"the dataset cannot be loaded ({reason}); {advice}") from None


class Folder(Source):
    """The pictures of a folder, a zip archive or a tar archive. The subfolders may be classes.

    If there are no pictures, the source reads tensors from the .npy files, each C×H×W or H×W.

    The first-level subfolders are the classes if every picture lies in a subfolder. If a single
    folder contains all subfolders, as in many archives, its subfolders count as first-level.
    """

    kind: str = "folder"
    root: Root
    """The folder or archive."""
    test_fraction: float = Field(0.0, ge=0, lt=1)
    """Fraction of the pictures held out as the test split. Hashes of the file names determine
    which pictures are held out."""

    @property
    def has_test(self):
        return self.test_fraction > 0

    def open(self):
        from psld.data.images import FileTree, bytes_of

        tree = FileTree(Path(self.root))
        # A split takes a tenth of the time of PurePosixPath, and there may be millions of names.
        parts = {
            name: [part for part in name.split("/") if part not in ("", ".")]
            for name in tree.picture_names()
        }
        while len({part[0] for part in parts.values()}) == 1 and min(map(len, parts.values())) > 2:
            parts = {name: part[1:] for name, part in parts.items()}
        loose = sum(len(part) == 1 for part in parts.values())
        if 0 < loose < len(parts):
            said = f"{loose} of {len(parts)} pictures lie in no subfolder, so there are no classes"
            print(f"{self.root}: {said}", file=sys.stderr)
        classes = [] if loose else sorted({part[0] for part in parts.values()})
        labels = {name: label for label, name in enumerate(classes)}

        def picture(name: str) -> tuple[partial, int]:
            return partial(tree.loaded, name), labels.get(parts[name][0], 0)

        held_out = _held_out(parts, self.test_fraction)
        train = [picture(name) for name in parts if name not in held_out]
        test = [picture(name) for name in sorted(held_out)]
        class_names = tuple(bytes_of(name).decode(errors="replace") for name in classes)
        return Images(train, test, class_names)

    def seen(self):
        from psld.data.images import FileTree

        return FileTree(Path(self.root)).listing()


def _held_out(names: Iterable[str], fraction: float) -> set[str]:
    """Return the given fraction of the names: the names with the smallest hashes.

    The choice does not depend on the order of the names. Adding names moves few existing names to
    the other split.
    """
    from psld.data.images import bytes_of

    if not fraction:  # Skip the hashes, because hashing many names takes seconds.
        return set()
    by_hash = sorted(names, key=lambda name: hashlib.sha256(bytes_of(name)).digest())
    return set(by_hash[: round(fraction * len(by_hash))])


# -- numbered images: arrays and Hugging Face datasets ---------------------------------------------


@dataclass(frozen=True)
class Rows(Sequence):
    """Pairs (picture, label) of selected rows. With a `shape`, many rows can be read at a time."""

    read: Callable[[Any], Any]
    """Returns the picture of a row number. With a `shape`, also accepts an array of row numbers."""
    rows: "np.ndarray"
    labels: "np.ndarray"
    shape: tuple[int, ...] = ()
    """The shape of every picture, H×W×C, or of every tensor, C×H×W; empty if shapes may differ."""

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return self.read(self.rows[index]), self.labels[index]

    def pixels(self, indices: range) -> "np.ndarray":
        """Return the pictures or tensors of a range, n×`shape`."""
        return self.read(self.rows[indices.start : indices.stop]).reshape(-1, *self.shape)


class Numbered(Source):
    """A source of numbered images. Some of the images may be held out."""

    path: Root
    test_fraction: float = Field(0.0, ge=0, lt=1)
    """Fraction of the images held out as the test split. Hashes of the image numbers determine
    which images are held out."""

    def seen(self):
        files = [each.stat() for each in (regular_file(self.path), *Path(self.path).rglob("*"))]
        newest = datetime.fromtimestamp(max(each.st_mtime for each in files))
        return f"{sum(each.st_size for each in files):,} bytes, {newest:%Y-%m-%d %H:%M:%S}"

    def in_test(self, count: int) -> "np.ndarray":
        """Return `count` booleans that are true for held-out images."""
        import numpy as np

        in_test = np.zeros(count, bool)
        in_test[[*map(int, _held_out(map(str, range(count)), self.test_fraction))]] = True
        return in_test

    def classes(self, labels: "np.ndarray", count: int) -> tuple[str, ...]:
        """Return the class names 0, 1, …. Raises UserError if the labels are not class indices."""
        fits = labels.shape == (count,) and labels.dtype.kind in "iu"
        if not fits or labels.min() < 0 or labels.max() >= count:
            ends = f" from {labels.min()} to {labels.max()}" if fits else ""
            right = f"{count:,} integers from 0, such as np.unique(labels, return_inverse=True)[1]"
            found = f"{labels.dtype}{ends} of shape {labels.shape}"
            raise UserError(f"{self.path}: the labels are {found}; right is {right}")
        return tuple(map(str, range(int(labels.max()) + 1)))


class Array(Numbered):
    """An array file of images (uint8 N×H×W or N×H×W×C) or tensors (N×C×H×W or N×H×W).

    An .npy file is read in parts. An .npz file contains the images as `arr_0` and may contain
    their classes as `labels`. Tensors are floats of 16, 32 or 64 bits.
    """

    kind: str = "array"

    @property
    def has_test(self):
        return self.test_fraction > 0

    def open(self):
        import numpy as np

        from psld.data.images import IMAGES, names_in, no_images, read_npz

        path, labels = regular_file(self.path), None
        if path.suffix == ".npz":
            arrays = read_npz(path, [IMAGES, "labels"]) or read_npz(path, [IMAGES])
            if not arrays:
                raise no_images(path)
            images, labels = arrays[0], arrays[1] if len(arrays) > 1 else None
            if others := ", ".join(sorted({*names_in(path)} - {IMAGES, "labels"})):
                said = f"left out: {others:.100}; classes are read from labels"
                print(f"{path}: {said}", file=sys.stderr)
            opened = partial(np.asarray, images)
        else:
            with reading(path, "not a valid .npy of numbers"):
                images = np.lib.format.open_memmap(path, mode="r")
            # Each read opens a new memory map; the pages of a single map would stay in memory.
            order = "F" if np.isfortran(images) else "C"
            given = images.dtype, "r", images.offset, images.shape, order
            opened = partial(np.memmap, path, *given)
        are_tensors = images.dtype.kind == "f" and images.dtype.itemsize <= 8
        wrong = images.dtype.name != "uint8" and not are_tensors
        wrong = wrong or images.ndim not in (3, 4) or not images.size
        if wrong or not (are_tensors or images.shape[3:] in ((), (1,), (3,), (4,))):
            right = "uint8 N×H×W or N×H×W×C with 1, 3 or 4 channels, or floats N×C×H×W or N×H×W"
            raise UserError(f"{path}: {images.dtype} of {images.shape}; right is {right}")
        count, *shape = images.shape
        if len(shape) == 2:
            shape = [1, *shape] if are_tensors else [*shape, 1]
        names = () if labels is None else self.classes(labels, count)
        labels = np.zeros(count, int) if labels is None else labels

        def read(rows: Any) -> "np.ndarray":
            return np.asarray(opened()[rows])

        in_test = self.in_test(count)
        given = [(np.flatnonzero(s), labels[s], tuple(shape)) for s in (~in_test, in_test)]
        splits = [Rows(read, *each) for each in given]
        return Images(splits[0], splits[1], names)


class HuggingFace(Numbered):
    """The pictures or tensors of a dataset that Hugging Face's library `datasets` can load.

    The path is a folder written by `save_to_disk`, a parquet file, or a folder of parquet files. A
    split named `test` is the test split. The library caches a copy of parquet files.
    """

    kind: str = "datasets"
    image: str = "image"
    """Name of the column with the pictures or tensors."""
    label: str = "label"
    """Name of the column with the classes, if the dataset has classes."""

    def open(self):
        import datasets  # pyright: ignore[reportMissingImports]
        import numpy as np

        path = regular_file(self.path)
        with reading(path, "neither a folder of save_to_disk nor whole parquet files"):
            if any((path / name).exists() for name in ("state.json", "dataset_dict.json")):
                loaded: Any = datasets.load_from_disk(str(path))
            else:
                files: Any = {"data_dir" if path.is_dir() else "data_files": str(path)}
                loaded = datasets.load_dataset("parquet", **files)
        splits = loaded if isinstance(loaded, dict) else {"train": loaded}
        taken = [splits[name] for name in ("train", "test") if name in splits]
        if "train" not in splits or (self.test_fraction and len(taken) > 1):
            right = "train is needed, without test if dataset.source.test_fraction is set"
            raise UserError(f"{path}: its splits are {', '.join(splits)}; {right}")
        data = datasets.concatenate_datasets(taken).with_format(None)
        count, types, names = len(data), data.features, ()
        in_test = np.arange(count) >= len(taken[0]) if len(taken) > 1 else self.in_test(count)
        labels = np.array(data[self.label][:] if self.label in types else [0] * count)
        if self.label in types:
            names = getattr(types[self.label], "names", None) or self.classes(labels, count)
        if self.image not in types:
            right = "dataset.source.image=NAME, or data.cast_column(NAME, datasets.Image())"
            wrong = f"no column {self.image} of pictures, but {', '.join(types)}"
            raise UserError(f"{path}: {wrong}; right is {right}")
        pictures = data.select_columns(self.image)
        kinds = ("Array2D", "Array3D", "List", "LargeList", "Sequence")
        if type(types[self.image]).__name__ in kinds:  # tensors
            arrays = pictures.with_format("numpy")

            def read(row: int) -> Any:
                return np.asarray(arrays[int(row)][self.image])
        else:
            pictures = pictures.cast_column(self.image, datasets.Image(decode=False))

            def read(row: int) -> Any:
                return partial(_picture, pictures[int(row)][self.image], f"{path}: picture {row}")

        rows = [Rows(read, np.flatnonzero(s), labels[s]) for s in (~in_test, in_test)]
        return Images(rows[0], rows[1], tuple(names))


def _picture(file: dict[str, Any] | None, where: str) -> Any:
    from psld.data.images import BrokenPicture, decode

    if not file:
        raise BrokenPicture(f"{where}: no picture")
    return decode(file["bytes"] or Path(file["path"]).read_bytes(), where)


class Prepared(Source):
    """The pictures of a prepared dataset, which `dataset.decode` encodes to tensors."""

    kind: str = "prepared"
    dataset: Name
    """The name of the dataset, data/NAME.h5. The tensors keep the splits and classes of this
    dataset."""

    @property
    def encoded(self):
        return self.dataset

    def open(self):
        import numpy as np

        from psld.data.store import ImageStore

        store = ImageStore.open(f"data/{self.dataset}.h5")

        def rows(split: Any) -> Rows | tuple[()]:
            if not store.splits[split]:
                return ()
            images, labels = store.images(split), store.labels(split)
            return Rows(images.__getitem__, np.arange(len(images)), labels, store.shape)

        return Images(rows("train"), rows("test"), store.class_names)

    def seen(self):
        from psld.data.store import ImageStore

        return ImageStore.open(f"data/{self.dataset}.h5").digest
