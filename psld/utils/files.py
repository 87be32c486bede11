"""Atomic writes (temporary name, flush, rename), JSON files, and SHA-256 digests."""

import errno
import glob
import hashlib
import json
import math
import os
import platform
import stat
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from pydantic import TypeAdapter, ValidationError

from psld.utils.errors import DISK_ERRORS, UserError, reraise_fault

LATE_SECONDS = 60
"""The longest time for another node's write to appear here, on a shared file system."""

STEP = "step"
"""In a run directory: the number of steps that are saved, from which a life goes on."""

_HOST = platform.node()
P = ParamSpec("P")
T = TypeVar("T")


def make_private(folder: Path, remedy: str = "move it away") -> None:
    """Make a folder that only this user may enter.

    Raises UserError if the folder is there and belongs to another user, which ends with the remedy,
    or if other users may write to it.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if {folder.lstat().st_uid, folder.stat().st_uid} != {os.geteuid()}:
        raise UserError(f"{folder}: belongs to another user, and must be yours; {remedy}")
    if folder.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise UserError(
            f"{folder}: other users may write to it, and only you may; check what is in it and "
            "chmod 700 it, or delete it"
        )
    folder.chmod(0o700)


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path next to `path`; on success flush it to disk and rename it to `path`.

    On an exception, remove the temporary file and leave `path` as it was. The temporary name
    contains host and process, so two writers of one path do not collide. The next writer on the
    same host removes the files of killed writers. A link at the temporary name, which another user
    could guess, is not followed. Raises UserError for a pipe or a device.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        regular_file(path)
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.{glob.escape(_HOST)}.*.partial"):
        pid = leftover.name.split(".")[-2]
        if pid.isdigit() and not Path(f"/proc/{pid}").exists():
            leftover.unlink(missing_ok=True)
    partial = path.with_name(f".{path.name}.{_HOST}.{os.getpid()}.partial")
    try:
        partial.unlink(missing_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        os.close(os.open(partial, flags, 0o666))
        yield partial
        if not partial.stat().st_size:
            raise FileNotFoundError(errno.ENOENT, "Nothing was written", str(path))
        _flush_to_disk(partial)
        partial.replace(path)
    except BaseException as error:
        partial.unlink(missing_ok=True)
        if isinstance(error, OSError) and (
            error.errno in DISK_ERRORS or str(error.filename) == str(partial)
        ):
            error.filename = str(path)  # A failed write carries no name, or the temporary one.
        raise
    _flush_to_disk(path.parent)


def _flush_to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def regular_file(path: str | Path) -> Path:
    """Return the path of a file or folder, unless its reader could wait without end.

    Raises UserError for a pipe or a device, and OSError if there is nothing.
    """
    path = Path(path)
    mode = path.stat().st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise UserError(f"{path}: a pipe or a device; a regular file is needed")
    return path


def files_below(folder: Path, left_out: Counter[str]) -> Iterator[tuple[str, int]]:
    """Yield name and size of each regular file below a folder, links followed, none that is hidden.

    `left_out` counts what else is there.
    """

    def fail(error: OSError) -> None:
        raise error

    start = len(os.path.join(folder, ""))
    for where, folders, files in os.walk(folder, onerror=fail, followlinks=True):
        here = Path(where)
        above = {each.resolve() for each in (here, *here.parents)}
        shown = [name for name in folders if not name.startswith(".")]
        folders[:] = [name for name in shown if (here / name).resolve() not in above]
        left_out["link that leads back"] += len(shown) - len(folders)
        # Folders may have millions of files; a Path costs more than reading the size of a file.
        for path in (os.path.join(where, name) for name in files if not name.startswith(".")):
            try:
                status = os.stat(path)
            except OSError as error:  # a link to nothing, or to itself
                reraise_fault(error, path)
                left_out["link to nothing"] += 1
                continue
            if stat.S_ISREG(status.st_mode):
                yield path[start:], status.st_size
            else:
                left_out["pipe, socket or device"] += 1


def check_place(file: str | Path) -> None:
    """Raise UserError if no file can be made at a path; call it before the work."""
    folder = next(each for each in Path(file).parents if each.exists())
    if not (folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)):
        raise UserError(f"{file}: {folder} is no folder that you may write to; name another path")


def write_text(path: str | Path, text: str) -> None:
    with atomic_path(path) as partial:
        partial.write_text(text, "utf-8")


def write_json(path: str | Path, content: Any) -> None:
    """Write `content` as indented JSON. Raises ValueError for NaN and infinity."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def read_json(path: str | Path, kind: Any = Any, missing: str = "no such file") -> Any:
    """Read a JSON file of this type. Raises UserError if it is missing, damaged or of another."""
    try:
        text = regular_file(path).read_text("utf-8")
        content = json.loads(text, parse_constant=_finite, parse_float=_finite)
        return TypeAdapter(kind).validate_python(content, strict=True)
    except FileNotFoundError:
        raise UserError(f"{path}: {missing}") from None
    except NotADirectoryError:
        folder, name = Path(path).parent, Path(path).name
        raise UserError(f"{folder}: not a folder; the one that has {name} is needed") from None
    except ValidationError as error:
        found = error.errors(include_url=False)[0]
        place = ".".join(map(str, found["loc"])) or "content"
        wrong = f"{place}: {found['msg']}"
        raise UserError(f"{path}: {wrong}; delete the file and make it again") from None
    except (ValueError, RecursionError) as error:  # numbers of 5,000 digits, lists in lists in …
        raise UserError(f"{path}: not valid JSON ({error}); delete it and make it again") from None


def kept_in_cache(name: str, make: Callable[[], Any]) -> Any:
    """Return what .cache/NAME has of an earlier call; else make it, JSON, and keep it there.

    It is kept, with its digest, where grids are; if it is damaged, it is made again.
    """
    path = Path(".cache", name)
    with suppress(UserError, OSError, ValueError):
        digest, value = read_json(path, list)
        if digest == digest_of(value):
            return value
    value = make()
    if Path(".cache").is_dir():
        with suppress(OSError):
            write_json(path, [digest_of(value), value])
    return value


def _finite(number: str) -> float:
    """Return a number of JSON. Raises ValueError for NaN, infinity, and what is too large."""
    if not math.isfinite(value := float(number)):
        raise ValueError(f"it has the number {number[:20]}")
    return value


def saved_step(run: Path, name: str = STEP) -> int:
    """Return the number in a run's file `step`, or in another one; 0 without it."""
    file = run / name
    return int(file.read_text()) if file.exists() else 0


def sha256_of_file(path: str | Path) -> str:
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def digest_of(content: Any) -> str:
    """Return the SHA-256 of `content` as canonical JSON."""
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def retried_in_slurm(read: Callable[P, T]) -> Callable[P, T]:
    """Make a reader in a Slurm job try again, for LATE_SECONDS, while it raises UserError.

    Another node may have written the file a moment ago: its name, its size and its content may
    appear here one after the other. Outside a Slurm job, and at a terminal in one, the error is
    raised at once.
    """

    @wraps(read)
    def reader(*arguments: P.args, **options: P.kwargs) -> T:
        deadline = time.monotonic() + LATE_SECONDS
        printed = ""
        while True:
            try:
                return read(*arguments, **options)
            except UserError as error:
                in_job = "SLURM_JOB_ID" in os.environ and not (sys.stdin and sys.stdin.isatty())
                if not in_job or time.monotonic() >= deadline:
                    raise
                if str(error) != printed:
                    printed = str(error)
                    print(f"{printed}; waiting, another node may have written it now", flush=True)
            time.sleep(1)

    return reader
