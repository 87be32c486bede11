"""The file format of a certificate: all that the tables of a grid are computed from.

A certificate is a zip without compression. Its first entry, `certificate.json`, has the SHA-256 of
every other entry. These are files of the project under their usual paths, the resolved grid, and
the tables. The order of the entries and all fields of the zip are fixed: equal contents are equal
files, and no byte can change without notice.
"""

import hashlib
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Literal

from psld.config.settings import Settings, parse
from psld.utils.errors import UserError, reraise_fault
from psld.utils.files import atomic_path, read_json, sha256_of_file, write_json

INDEX = "certificate.json"

CHUNK = 1 << 20

DIRECTORY_RECORD = 46
"""Bytes of an entry in the zip's list of entries, without its name."""

UNREADABLE = (zipfile.BadZipFile, OSError, EOFError, ValueError, OverflowError, RuntimeError)
"""The errors of the zip library for damaged files."""


class Index(Settings):
    """The first entry of a certificate."""

    format: Literal[1] = 1
    """Version of the format."""
    grid: str
    """Name of the grid."""
    sha256: dict[str, str]
    """SHA-256 of each other entry."""


def pack(
    grid: str, files: Mapping[str, Path], path: Path, expected: Mapping[str, str] | None = None
) -> None:
    """Write the certificate of a grid from files, by the names of their entries.

    Raises UserError if a file is replaced meanwhile, or has not the `expected` SHA-256.
    """
    index = Index(grid=grid, sha256={name: sha256_of_file(files[name]) for name in sorted(files)})
    for name, digest in (expected or {}).items():
        if index.sha256[name] != digest:
            raise UserError(f"{name}: replaced while it was read; certify again")
    with TemporaryDirectory(prefix="psld-") as folder:
        write_json(Path(folder) / INDEX, index.model_dump(mode="json"))
        with atomic_path(path) as partial:
            _write(Path(folder) / INDEX, files, partial)
            with zipfile.ZipFile(partial) as archive:
                for name, digest in index.sha256.items():
                    with archive.open(name) as entry:
                        if hashlib.file_digest(entry, "sha256").hexdigest() != digest:
                            raise UserError(f"{name}: replaced while it was read; certify again")


def _write(index: Path, files: Mapping[str, Path], path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, file in [(INDEX, index), *sorted(files.items())]:
            entry = zipfile.ZipInfo(name)  # with a fixed date
            entry.file_size = file.stat().st_size
            with file.open("rb") as source, archive.open(entry, "w") as target:
                shutil.copyfileobj(source, target, CHUNK)


def unpack(path: Path, folder: Path) -> Index:
    """Write the entries of a certificate into an empty folder, and check that all are whole.

    Nothing outside the folder is written, and no more bytes than the certificate has. Raises
    UserError, with the name of the entry, if the file is damaged or not a certificate.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            if INDEX not in archive.NameToInfo:
                raise UserError(f"{path}: not a certificate: it has no entry {INDEX}")
            if sum(entry.file_size for entry in entries) > path.stat().st_size:
                raise UserError(f"{path}: damaged: its entries are larger than the file")
            for entry in entries:
                _extract(archive, entry, path, folder)
    except UNREADABLE as error:
        reraise_fault(error)
        raise UserError(
            f"{path}: not a certificate, or damaged in its list of entries ({error})"
        ) from None
    index = _read_index(path, folder)
    names = [entry.filename for entry in entries]
    for name, digest in index.sha256.items():
        if name not in names:
            raise UserError(f"{path}: {name}: missing")
        if sha256_of_file(folder / name) != digest:
            raise UserError(f"{path}: {name}: changed: its SHA-256 is not that in {INDEX}")
    for name in names:
        if name not in {INDEX, *index.sha256}:
            raise UserError(f"{path}: {name}: added: it is not in {INDEX}")
    _check_bytes(path, folder, index)
    return index


def _extract(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, path: Path, folder: Path) -> None:
    name = PurePosixPath(entry.filename)
    target = folder / name
    if name.is_absolute() or ".." in name.parts or "\\" in entry.filename or target.exists():
        raise UserError(f"{path}: {entry.filename}: not a name that an entry can have")
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        if entry.compress_type != zipfile.ZIP_STORED:
            raise UserError(f"{path}: {entry.filename}: damaged: it is compressed")
        with archive.open(entry) as source, target.open("xb") as copy:
            shutil.copyfileobj(source, copy, CHUNK)
    except UNREADABLE as error:
        reraise_fault(error)
        raise UserError(f"{path}: {entry.filename}: damaged ({error})") from None


def _read_index(path: Path, folder: Path) -> Index:
    try:
        content = read_json(folder / INDEX)
    except UserError:
        content = None
    if not isinstance(content, dict):
        raise UserError(f"{path}: {INDEX}: damaged: not valid JSON")
    return parse(Index, content, where=f"{path}: {INDEX}")


def _check_bytes(path: Path, folder: Path, index: Index) -> None:
    """Raise UserError if the file is not, byte for byte, the certificate of its entries."""
    with TemporaryDirectory(prefix="psld-") as other:
        again = Path(other) / "again.zip"
        _write(folder / INDEX, {name: folder / name for name in index.sha256}, again)
        with path.open("rb") as file, again.open("rb") as expected:
            position = 0
            while (a := file.read(CHUNK)) == (b := expected.read(CHUNK)):
                if not a:
                    return
                position += len(a)
        differing = (i for i, pair in enumerate(zip(a, b, strict=False)) if pair[0] != pair[1])
        position += next(differing, min(len(a), len(b)))
        raise UserError(f"{path}: {_entry_at(again, position)}: damaged at byte {position}")


def _entry_at(path: Path, position: int) -> str:
    """Return the name of the entry that a byte of a certificate belongs to."""
    with zipfile.ZipFile(path) as archive:
        starts = [(entry.header_offset, entry.filename) for entry in archive.infolist()]
        record = archive.start_dir
        for entry in archive.infolist():
            starts.append((record, entry.filename))
            name = len(entry.filename.encode())
            record += DIRECTORY_RECORD + name + len(entry.extra)
    starts.append((record, "its list of entries"))
    return max(start for start in starts if start[0] <= position)[1]
