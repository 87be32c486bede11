"""Sources of picture files: the files of a folder or a zip archive; AFHQv2, CelebA, any folder."""

import hashlib
import os
import stat
import sys
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from psld.data.picture import central_square, decode
from psld.data.settings import AFHQv2Source, CelebASource, FolderSource
from psld.utils.errors import UserError, reraise_fault
from psld.utils.files import regular_file

Frame = Callable[[Image.Image], Image.Image]
"""Crops or pads a picture."""

PICTURE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


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


def pictures_in_memory(
    images: np.ndarray, labels: np.ndarray, frame: Frame = lambda image: image
) -> list[Picture]:
    """Return uint8 images, n×H×W for gray or n×H×W×3 for RGB, as pictures."""

    def picture(image: np.ndarray, label: int) -> Picture:
        return Picture(lambda: frame(Image.fromarray(image)), int(label))

    return list(map(picture, images, labels))


class FileTree:
    """The regular files of a folder and its subfolders, links followed, or of a zip archive.

    Hidden files are left out, and so is a link that leads back to a folder above it. All reading
    threads share one open archive, as zipfile allows. Nothing is unpacked to disk.

    Raises UserError if `path` is neither a folder nor a whole archive.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._archive: zipfile.ZipFile | None = None
        self._left_out: Counter[str] = Counter()
        if path.is_dir():
            sizes = dict(_files_below(path, self._left_out))
        else:
            try:
                self._archive = zipfile.ZipFile(regular_file(path))
            except Exception as error:  # Damage in the archive's list can raise nearly any.
                reraise_fault(error, path)
                raise UserError(
                    f"{path}: neither a folder nor a whole zip archive ({error})"
                ) from None
            # Of two files of one name, the later one counts.
            members = [each for each in self._archive.infolist() if each.filename]
            sizes = {file.filename: file.file_size for file in members if not file.is_dir()}
        self.sizes = {name: sizes[name] for name in sorted(sizes) if not _is_hidden(name)}
        """In bytes, by name, with / between folders."""
        self._pictures = [name for name in self.sizes if name.lower().endswith(PICTURE_SUFFIXES)]

    def picture_names(self) -> list[str]:
        """Return the names that end like a picture's, sorted, and print how many others there are.

        Raises UserError if there are none.
        """
        names = self._pictures
        others = Counter(map(_ending, sorted(self.sizes.keys() - set(names)))) + self._left_out
        counts = ", ".join(f"{count} × {kind}" for kind, count in others.most_common(5))
        left_out = f"left out: {counts}{', …' if len(others) > 5 else ''}" if others else ""
        if not names:
            raise UserError(
                f"{self.path}: no pictures in it; they end in {', '.join(PICTURE_SUFFIXES)}"
                f"{left_out and f' ({left_out})'}"
            )
        if left_out:
            print(f"{self.path}: {left_out}", file=sys.stderr)
        return names

    def listing(self) -> dict[str, int | str]:
        """Return the number of pictures, and the SHA-256 of their names and sizes."""
        lines = "".join(f"{self.sizes[name]} {name}\0" for name in self._pictures)
        sha256 = hashlib.sha256(_bytes_of(lines)).hexdigest()
        return {"pictures": len(self._pictures), "sha256": sha256}

    def picture(self, name: str, label: int = 0, frame: Frame = central_square) -> Picture:
        """Return a picture that is read from its own file."""
        return Picture(lambda: frame(decode(self.read(name), f"{self.path}/{name}")), label)

    def read(self, name: str) -> bytes:
        """Read a file. Raises UserError if it does not match the archive's own checksum."""
        try:
            return self._archive.read(name) if self._archive else (self.path / name).read_bytes()
        except Exception as error:  # As above: BadZipFile, EOFError, zlib.error, ValueError, …
            reraise_fault(error, f"{self.path}/{name}")
            raise UserError(f"{self.path}/{name}: cannot be read ({error}); replace it") from None


def _files_below(folder: Path, left_out: Counter[str]) -> Iterator[tuple[str, int]]:
    """Yield name and size of each regular file below a folder; count what else is there."""
    root = folder.stat()
    pending = [("", frozenset({(root.st_dev, root.st_ino)}))]
    while pending:
        prefix, above = pending.pop()
        with os.scandir(f"{folder}/{prefix}") as scanned:
            entries = list(scanned)
        for entry in entries:
            name = f"{prefix}{entry.name}"
            if _is_hidden(name):
                continue
            try:
                status = entry.stat()
            except OSError as error:  # a link to nothing, or to itself
                reraise_fault(error, f"{folder}/{name}")
                left_out["link to nothing"] += 1
                continue
            place = status.st_dev, status.st_ino
            if stat.S_ISREG(status.st_mode):
                yield name, status.st_size
            elif not stat.S_ISDIR(status.st_mode):
                left_out["pipe, socket or device"] += 1
            elif place in above:
                left_out["link that leads back"] += 1
            else:
                pending.append((f"{name}/", above | {place}))


def _bytes_of(name: str) -> bytes:
    """Return a name as bytes; in old archives and folders, it may be no UTF-8."""
    return name.encode(errors="surrogateescape")


def _ending(name: str) -> str:
    """Return a file's ending, such as .gif."""
    suffix = PurePosixPath(name).suffix.lower()
    return suffix if suffix and suffix.isprintable() else "file without an ending"


def _is_hidden(name: str) -> bool:
    """Recognize hidden files, and the folder that macOS adds to zip archives."""
    parts = PurePosixPath(name).parts
    return parts[:1] == ("__MACOSX",) or any(part.startswith(".") for part in parts)


AFHQV2_CLASSES = ("dog", "cat", "wild")
"""In the order of the official PSLD code, so that labels agree with its classifiers."""


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
            tree.picture(name, classes.index(parts[name][0]) if in_classes else 0) for name in names
        ]

    # The names with the smallest hashes are held out. The choice does not depend on the order of
    # the names, and new pictures move few old ones.
    by_hash = sorted(parts, key=lambda name: hashlib.sha256(_bytes_of(name)).digest())
    held_out = set(by_hash[: round(settings.test_fraction * len(parts))])
    train = pictures([name for name in parts if name not in held_out])
    test = pictures(sorted(held_out))
    class_names = tuple(_bytes_of(name).decode(errors="replace") for name in classes)
    return Source(train, test, class_names, tree.listing())


def open_afhqv2(settings: AFHQv2Source) -> Source:
    """Return the animal faces of StarGAN v2: PNGs of 512×512 in train/CLASS/ and test/CLASS/."""
    root = Path(settings.root)
    archive = root / "afhq_v2.zip"
    if not archive.exists() and not (root / "train").is_dir():
        raise UserError(
            f"{root}: neither {archive.name} nor a folder train in it; get the archive with "
            "`bash download.sh afhq-v2-dataset` of github.com/clovaai/stargan-v2 and put it, or "
            f"the unpacked folders train and test, into {root}, or set dataset.source.root"
        )
    # The archive comes first, because the folders may be unpacked only in part.
    tree = FileTree(archive if archive.exists() else root)
    names = tree.picture_names()
    train, test = _afhqv2_split(tree, names, "train"), _afhqv2_split(tree, names, "test")
    return Source(train, test, AFHQV2_CLASSES)


def _afhqv2_split(tree: FileTree, names: list[str], split: str) -> list[Picture]:
    pictures = []
    for label, folder in enumerate(AFHQV2_CLASSES):
        # The archive may hold the two folders inside another one.
        inside = [name for name in names if PurePosixPath(name).parts[-3:-1] == (split, folder)]
        if not inside:
            raise UserError(f"{tree.path}: no pictures in {split}/{folder}; unpack or get it again")
        pictures += [tree.picture(name, label) for name in inside]
    return pictures


def open_celeba(settings: CelebASource) -> Source:
    """Return all 202,599 aligned pictures of CelebA, 178×218, in the order of their names."""
    root = Path(settings.root)
    # The archive comes first, because the folder may be unpacked only in part.
    archive, folder = root / "img_align_celeba.zip", root / "img_align_celeba"
    path = archive if archive.exists() else folder
    if not path.exists():
        raise UserError(
            f"{root}: neither {archive.name} nor {folder.name} in it; put {archive.name} of the "
            "CelebA project page (mmlab.ie.cuhk.edu.hk/projects/CelebA.html, Align&Cropped "
            f"Images) into {root}, or set dataset.source.root"
        )
    tree = FileTree(path)
    pictures = [tree.picture(name, frame=lambda image: image) for name in tree.picture_names()]
    return Source(pictures, [], ())
