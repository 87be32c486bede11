"""The images of a source: in memory, or in the files of a folder or a packed zip archive."""

import hashlib
import math
import os
import stat
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
from PIL import Image
from tqdm import tqdm

from psld.data.picture import BrokenPicture, central_square, decode
from psld.utils.errors import RunError, UserError, reraise_fault
from psld.utils.files import sha256_of_file

Frame = Callable[[Image.Image], Image.Image]
"""Crops or pads a picture."""

PICTURE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")

MAX_BYTES = 1 << 28
"""The largest size of a picture's file, unpacked. It is checked before the file is read."""


@dataclass(frozen=True, eq=False)
class Picture:
    """An image that is read when it is needed."""

    read: Callable[[], Image.Image]
    """The image, framed but not resized. Called from several threads. Raises BrokenPicture."""
    label: int = 0
    """An index of `class_names`; 0 if the source has no classes."""


@dataclass(frozen=True)
class Source:
    """The images of a dataset."""

    train: Sequence[Picture]
    test: Sequence[Picture]
    class_names: tuple[str, ...]
    """Empty if the source has no classes."""
    checksums: Mapping[str, str]
    """SHA-256 of each file or folder that the images come from."""


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

    Raises UserError if `path` is neither a folder nor a whole archive, or if a folder is linked
    into itself, or if the path of a file in the archive leads out of it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._archive: zipfile.ZipFile | None = None
        self._digests: dict[str, str] = {}
        """SHA-256 of each file of a folder, from `checksum`, to notice another one in its place."""
        if path.is_dir():
            names = _names_below(path)
        elif path.is_file():
            # Damage anywhere in the archive's list can raise nearly any exception.
            try:
                self._archive = zipfile.ZipFile(path)
            except Exception as error:
                reraise_fault(error)
                if path.suffix.lower() != ".zip":
                    raise UserError(f"{path}: neither a folder nor a zip archive") from None
                raise UserError(
                    f"{path}: not a whole zip archive ({error}); get it again"
                ) from None
            # Of two files of one name, the later one counts.
            names = {n for n in self._archive.namelist() if n and not n.endswith("/")}
            for name in names:
                if name.startswith("/") or ".." in name.split("/"):
                    raise UserError(
                        f"{path}: the path {name!r} in it leads out of the archive; pack it again"
                    )
        else:
            raise UserError(f"{path}: no such folder or zip archive")
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
        """Read a file.

        Raises BrokenPicture if it does not match the archive's own checksum or is too large.
        """
        try:
            if self._archive is None:
                content = self._file(name, MAX_BYTES).read_bytes()
            elif (size := self._archive.getinfo(name).file_size) > MAX_BYTES:
                raise BrokenPicture(f"{self.path}/{name}", _too_large(size))
            else:
                return self._archive.read(name)
        except (RuntimeError, OSError) as error:
            raise UserError(f"{self.path}/{name}: cannot be read ({error})") from None
        # As above: BadZipFile, EOFError, zlib.error, ValueError, …
        except Exception as error:
            reraise_fault(error)
            raise BrokenPicture(f"{self.path}/{name}", str(error)) from None
        digest = hashlib.sha256(content).hexdigest()
        if self._digests.get(name, digest) != digest:
            raise UserError(f"{self.path}/{name}: replaced while it was read; prepare again")
        return content

    def checksum(self) -> str:
        """Return the SHA-256 of the archive, or of the list "SHA-256  NAME" of a folder's files."""
        if self._archive:
            # Of the open file: the path may lead to another one by now.
            self._archive.fp.seek(0)
            return hashlib.file_digest(self._archive.fp, "sha256").hexdigest()
        listing = hashlib.sha256()
        for name in tqdm(self.names, f"checksum of {self.path}", disable=None, leave=False):
            try:
                digest = sha256_of_file(self._file(name))
            except OSError as error:
                raise UserError(f"{self.path}/{name}: cannot be read ({error})") from None
            self._digests[name] = digest
            listing.update(f"{digest}  {name}\n".encode(errors="surrogateescape"))
        return listing.hexdigest()

    def _file(self, name: str, max_bytes: float = math.inf) -> Path:
        """Return the path of a regular file in a folder; reading another may never end."""
        path = self.path / name
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise UserError(f"{path}: not a regular file; remove it")
        if status.st_size > max_bytes:
            raise BrokenPicture(str(path), _too_large(status.st_size))
        return path


def _names_below(root: Path) -> list[str]:
    names = []
    for folder, subfolders, files in os.walk(root, followlinks=True):
        real = Path(folder).resolve()
        for subfolder in subfolders:
            link = Path(folder, subfolder)
            if link.is_symlink() and real.is_relative_to(link.resolve()):
                raise UserError(f"{link}: a link to a folder that it lies in; remove it")
        names += [Path(folder, name).relative_to(root).as_posix() for name in files]
    return names


def _too_large(size: int) -> str:
    return f"{size / 2**20:,.0f} MiB; at most {MAX_BYTES >> 20} are read"


def _is_hidden(name: str) -> bool:
    """Recognize hidden files, and the folder that macOS adds to zip archives."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    return parts[:1] in ([], ["__MACOSX"]) or any(part.startswith(".") for part in parts)


@contextmanager
def torchvision_downloads(*files: Path, advice: str) -> Iterator[ModuleType]:
    """Yield torchvision.datasets; turn a failed download into a RunError that ends with `advice`.

    On failure, remove `files`: torchvision leaves files that do not match their checksums, and the
    next run would use them.
    """
    # torchvision imports torch, which nothing else in the preparation needs.
    import torchvision.datasets

    try:
        yield torchvision.datasets
    except BaseException as error:
        for file in files:
            file.unlink(missing_ok=True)
        if isinstance(error, OSError | RuntimeError):
            reason = " ".join(str(error).split())
            raise RunError(f"the download failed ({reason}); {advice}") from None
        raise
