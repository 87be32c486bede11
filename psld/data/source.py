"""Sources of picture files: the files of a folder or a zip archive; AFHQv2, CelebA, any folder."""

import hashlib
import os
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from psld.data.picture import central_square, decode
from psld.data.settings import AFHQv2Source, CelebASource, FolderSource
from psld.utils.errors import UserError, reraise_fault

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


def pictures_in_memory(
    images: np.ndarray, labels: np.ndarray, frame: Frame = lambda image: image
) -> list[Picture]:
    """Return uint8 images, n×H×W for gray or n×H×W×3 for RGB, as pictures."""

    def picture(image: np.ndarray, label: int) -> Picture:
        return Picture(lambda: frame(Image.fromarray(image)), int(label))

    return list(map(picture, images, labels))


class FileTree:
    """The files of a folder and its subfolders, links followed, or of a zip archive.

    Hidden files are left out. All reading threads share one open archive, as zipfile allows.
    Nothing is unpacked to disk.

    Raises UserError if `path` is neither a folder nor a whole archive.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._archive: zipfile.ZipFile | None = None
        if path.is_dir():
            folders = os.walk(path, followlinks=True)
            files = (Path(folder, name) for folder, _, names in folders for name in names)
            names = {file.relative_to(path).as_posix() for file in files}
        else:
            try:
                self._archive = zipfile.ZipFile(path)
            except Exception as error:  # Damage in the archive's list can raise nearly any.
                reraise_fault(error, path)
                raise UserError(
                    f"{path}: neither a folder nor a whole zip archive ({error})"
                ) from None
            names = set(self._archive.namelist())  # Of two files of one name, the later one counts.
        self.names = sorted(name for name in names if not _is_hidden(name))
        """With / between folders."""

    def picture_names(self) -> list[str]:
        """Return the names that end like a picture's. Raises UserError if there are none."""
        names = [name for name in self.names if name.lower().endswith(PICTURE_SUFFIXES)]
        if not names:
            raise UserError(
                f"{self.path}: no pictures in it; they end in {', '.join(PICTURE_SUFFIXES)}"
            )
        return names

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
    class_names = sorted({part[0] for part in parts.values()}) if in_classes else []

    def pictures(names: list[str]) -> list[Picture]:
        return [
            tree.picture(name, class_names.index(parts[name][0]) if in_classes else 0)
            for name in names
        ]

    # The names with the smallest hashes are held out. The choice does not depend on the order of
    # the names, and new pictures move few old ones.
    by_hash = sorted(parts, key=lambda name: hashlib.sha256(name.encode()).digest())
    held_out = set(by_hash[: round(settings.test_fraction * len(parts))])
    train = pictures([name for name in parts if name not in held_out])
    test = pictures(sorted(held_out))
    return Source(train, test, tuple(class_names))


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
    train, test = _afhqv2_split(tree, "train"), _afhqv2_split(tree, "test")
    return Source(train, test, AFHQV2_CLASSES)


def _afhqv2_split(tree: FileTree, split: str) -> list[Picture]:
    pictures = []
    names = tree.picture_names()
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
