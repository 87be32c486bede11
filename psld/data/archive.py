"""The files of a source: download them; read them from a folder or a packed zip archive."""

import hashlib
import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from types import ModuleType

from tqdm import tqdm

from psld.data.picture import BrokenPicture
from psld.utils.errors import RunError, UserError, reraise_fault
from psld.utils.files import sha256_of_file

PICTURE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
MAX_BYTES = 1 << 30
"""The size of the largest file that is unpacked from an archive."""


class FileTree:
    """The files of a folder and its subfolders, links followed, or of a zip archive.

    Hidden files are left out. All reading threads share one open archive, as zipfile allows.

    Raises UserError if `path` is neither a folder nor a whole archive.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._archive: zipfile.ZipFile | None = None
        if path.is_dir():
            names = [
                Path(folder, name).relative_to(path).as_posix()
                for folder, _, files in os.walk(path, followlinks=True)
                for name in files
            ]
        elif path.is_file():
            try:
                self._archive = zipfile.ZipFile(path)
            except Exception as error:  # A damaged list of entries can raise nearly any.
                reraise_fault(error)
                raise UserError(
                    f"{path}: not a whole zip archive ({error}); get it again"
                ) from None
            names = [name for name in self._archive.namelist() if name and not name.endswith("/")]
        else:
            raise UserError(f"{path}: no such folder or zip archive")
        self.names = sorted(name for name in names if not _is_hidden(name))
        """With / between folders."""

    def picture_names(self) -> list[str]:
        """The names that end like a picture's. Raises UserError if there are none."""
        names = [name for name in self.names if name.lower().endswith(PICTURE_SUFFIXES)]
        if not names:
            raise UserError(
                f"{self.path}: no pictures in it; they end in {', '.join(PICTURE_SUFFIXES)}"
            )
        return names

    def read(self, name: str) -> bytes:
        """Read a file. Raises BrokenPicture if it does not match the archive's own checksum."""
        try:
            if self._archive is None:
                return (self.path / name).read_bytes()
            if (size := self._archive.getinfo(name).file_size) > MAX_BYTES:
                raise zipfile.BadZipFile(f"{size} bytes; at most {MAX_BYTES} are read")
            return self._archive.read(name)
        except (RuntimeError, OSError) as error:
            raise UserError(f"{self.path}/{name}: cannot be read ({error})") from None
        except Exception as error:  # A decoder can raise nearly any for a damaged entry.
            reraise_fault(error)
            raise BrokenPicture(f"{self.path}/{name}", str(error)) from None

    def checksum(self) -> str:
        """The SHA-256 of the archive, or of the list "SHA-256  NAME" of a folder's files."""
        if self._archive:
            return sha256_of_file(self.path)
        listing = hashlib.sha256()
        for name in tqdm(self.names, f"checksum of {self.path}", disable=None, leave=False):
            listing.update(f"{hashlib.sha256(self.read(name)).hexdigest()}  {name}\n".encode())
        return listing.hexdigest()


def _is_hidden(name: str) -> bool:
    """Recognize hidden files, and the folder that macOS adds to zip archives."""
    parts = PurePosixPath(name).parts
    return parts[:1] in ((), ("__MACOSX",)) or any(part.startswith(".") for part in parts)


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
