"""The files of a source, read one at a time from a folder or from a zip archive, never unpacked."""

import hashlib
import os
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Protocol

from tqdm import tqdm

from psld.utils.errors import UserError

PICTURE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"})

_CHUNK_BYTES = 1 << 22


class DamagedFile(Exception):
    """A file of an archive whose bytes do not agree with the archive's own checksum."""


class FileTree(Protocol):
    """Files by relative name, with / between folders, in sorted order."""

    path: Path
    names: list[str]

    def read(self, name: str) -> bytes:
        """The bytes of a file. Raises DamagedFile."""

    def checksum(self) -> str:
        """SHA-256 of the archive, or of the list "SHA-256  NAME" of the files of a folder."""


class Folder:
    """A folder and its subfolders, links followed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.names = sorted(_visible(_walk(path)))

    def read(self, name: str) -> bytes:
        try:
            return (self.path / name).read_bytes()
        except OSError as error:
            raise UserError(f"{self.path / name}: cannot be read ({error.strerror})") from None

    def checksum(self) -> str:
        listing = hashlib.sha256()
        for name in tqdm(self.names, f"checksum of {self.path}", disable=None, leave=False):
            listing.update(f"{hashlib.sha256(self.read(name)).hexdigest()}  {name}\n".encode())
        return listing.hexdigest()


class Zip:
    """A zip archive. Its one open file is shared by all reading threads, as zipfile allows."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._archive = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError) as error:
            raise UserError(
                f"{path}: not a whole zip archive ({error}); get the file anew"
            ) from None
        self.names = sorted(
            _visible(entry.filename for entry in self._archive.infolist() if not entry.is_dir())
        )

    def read(self, name: str) -> bytes:
        try:
            return self._archive.read(name)
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise DamagedFile(str(error)) from None
        except (RuntimeError, OSError) as error:
            raise UserError(f"{self.path}: {name} cannot be read ({error})") from None

    def checksum(self) -> str:
        return sha256_with_progress(self.path)


def open_tree(path: Path) -> FileTree:
    """The files of a folder or zip archive. Raises UserError when `path` is neither."""
    if path.is_dir():
        return Folder(path)
    if path.is_file():
        return Zip(path)
    raise UserError(f"{path}: no such folder or zip archive")


def picture_names(tree: FileTree) -> list[str]:
    """The names of the pictures of a tree, by their suffix. Raises UserError when there is none."""
    names = [name for name in tree.names if PurePosixPath(name).suffix.lower() in PICTURE_SUFFIXES]
    if not names:
        suffixes = ", ".join(sorted(PICTURE_SUFFIXES))
        raise UserError(f"{tree.path}: no pictures in it; they end in {suffixes}")
    return names


def sha256_with_progress(path: Path) -> str:
    digest = hashlib.sha256()
    with (
        path.open("rb") as file,
        tqdm(
            total=path.stat().st_size,
            desc=f"checksum of {path}",
            unit="B",
            unit_scale=True,
            disable=None,
            leave=False,
        ) as progress,
    ):
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            progress.update(len(chunk))
    return digest.hexdigest()


def _walk(root: Path) -> Iterator[str]:
    for folder, _, files in os.walk(root, followlinks=True):
        relative = PurePosixPath(Path(folder).relative_to(root))
        yield from (str(relative / file) for file in files)


def _visible(names: Iterable[str]) -> Iterator[str]:
    """Without hidden files and what macOS adds to zip archives."""
    for name in names:
        parts = PurePosixPath(name).parts
        if parts[0] != "__MACOSX" and not any(part.startswith(".") for part in parts):
            yield name
