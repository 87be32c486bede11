"""The files of a source: download them; read them from a folder or a packed zip archive."""

import hashlib
import os
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from types import ModuleType

from tqdm import tqdm

from psld.data.picture import BrokenPicture
from psld.utils.errors import RunError, UserError

PICTURE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


class Folder:
    """A folder and its subfolders, links followed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        files = (
            Path(folder, name).relative_to(path).as_posix()
            for folder, _, names in os.walk(path, followlinks=True)
            for name in names
        )
        self.names = sorted(name for name in files if not _is_hidden(name))

    def read(self, name: str) -> bytes:
        try:
            return (self.path / name).read_bytes()
        except OSError as error:
            raise UserError(f"{self.path / name}: cannot be read ({error.strerror})") from None

    def checksum(self) -> str:
        """The SHA-256 of the list "SHA-256  NAME" of all files."""
        listing = hashlib.sha256()
        for name in tqdm(self.names, f"checksum of {self.path}", disable=None, leave=False):
            listing.update(f"{hashlib.sha256(self.read(name)).hexdigest()}  {name}\n".encode())
        return listing.hexdigest()


class Zip:
    """A zip archive. All reading threads share its one open file, as zipfile allows."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._archive = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError) as error:
            raise UserError(f"{path}: not a whole zip archive ({error}); get it again") from None
        files = (entry.filename for entry in self._archive.infolist() if not entry.is_dir())
        self.names = sorted(name for name in files if not _is_hidden(name))

    def read(self, name: str) -> bytes:
        """Raises BrokenPicture if the file does not match the archive's own checksum."""
        try:
            return self._archive.read(name)
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise BrokenPicture(f"{self.path}/{name}", str(error)) from None
        except (RuntimeError, OSError) as error:
            raise UserError(f"{self.path}: {name} cannot be read ({error})") from None

    def checksum(self) -> str:
        return sha256_with_progress(self.path)


FileTree = Folder | Zip
"""Files by relative name, with / between folders, in sorted order."""


def open_tree(path: Path) -> FileTree:
    """List the files of a folder or zip archive. Raises UserError if `path` is neither."""
    if path.is_dir():
        return Folder(path)
    if path.is_file():
        return Zip(path)
    raise UserError(f"{path}: no such folder or zip archive")


def picture_names(tree: FileTree) -> list[str]:
    """The names that end like a picture's. Raises UserError if there are none."""
    names = [name for name in tree.names if name.lower().endswith(PICTURE_SUFFIXES)]
    if not names:
        raise UserError(
            f"{tree.path}: no pictures in it; they end in {', '.join(PICTURE_SUFFIXES)}"
        )
    return names


def sha256_with_progress(path: Path) -> str:
    digest = hashlib.sha256()
    bar = {"desc": f"checksum of {path}", "disable": None, "leave": False}
    with (
        path.open("rb") as opened,
        tqdm.wrapattr(opened, "read", total=path.stat().st_size, **bar) as file,
    ):
        while chunk := file.read(1 << 22):
            digest.update(chunk)
    return digest.hexdigest()


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


def _is_hidden(name: str) -> bool:
    """Recognize hidden files, and the folder that macOS adds to zip archives."""
    parts = PurePosixPath(name).parts
    return parts[0] == "__MACOSX" or any(part.startswith(".") for part in parts)
