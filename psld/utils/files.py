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
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache, wraps
from itertools import chain
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from pydantic import TypeAdapter, ValidationError

from psld.utils.errors import DISK_ERRORS, UserError, reraise_fault

LATE_SECONDS = 60
"""Seconds after which a file that another node has written is visible on a shared file system."""

STEP = "step"
"""The file in a run directory that holds the step of the newest checkpoint. A training resumes at
this step."""

_HOST = platform.node()
P = ParamSpec("P")
T = TypeVar("T")


def make_private(folder: Path, remedy: str = "move it away") -> None:
    """Create a folder that only this user may enter.

    Raises UserError if the folder exists and belongs to another user (with the remedy), or if other
    users may write to it.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if {folder.lstat().st_uid, folder.stat().st_uid} != {os.geteuid()}:
        raise UserError(f"{folder}: belongs to another user; {remedy}")
    if folder.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise UserError(
            f"{folder}: other users may write to this folder; check its content and run chmod 700, "
            "or delete it"
        )
    folder.chmod(0o700)


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path next to `path`. On success, rename the temporary file to `path`.

    The file is flushed to disk before it is renamed. On an exception, the temporary file is removed
    and `path` is unchanged. The temporary name contains the host and the process, so several
    processes may write to the same path. A link at the temporary path, which another user could
    create, is not followed. Raises UserError if `path` is a pipe or device.
    """
    with atomic_paths([Path(path)]) as [partial]:
        yield partial


@contextmanager
def atomic_paths(paths: Sequence[Path]) -> Iterator[list[Path]]:
    """Yield a temporary path for each of several paths in one folder, like `atomic_path`.

    The folder is flushed once, not once per file. The files are renamed one after the other: after
    a kill, some files may exist while others are missing.
    """
    folder = paths[0].parent
    folder.mkdir(parents=True, exist_ok=True)
    leftovers = _leftovers(folder.absolute())
    for leftover in chain.from_iterable(leftovers.pop(path.name, ()) for path in paths):
        pid = leftover.name.split(".")[-2]
        if pid.isdigit() and not Path(f"/proc/{pid}").exists():
            leftover.unlink(missing_ok=True)
    ending = f"{_HOST}.{os.getpid()}.partial"
    partials = {path.with_name(f".{path.name}.{ending}"): path for path in paths}
    try:
        for partial, path in partials.items():
            if path.exists():
                regular_file(path)
            partial.unlink(missing_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
            os.close(os.open(partial, flags, 0o666))
        yield [*partials]
        for partial, path in partials.items():
            if not partial.stat().st_size:
                raise FileNotFoundError(errno.ENOENT, "Nothing was written", str(path))
            _flush_to_disk(partial)
        for partial, path in partials.items():
            partial.replace(path)
    except BaseException as error:
        for partial in partials:
            partial.unlink(missing_ok=True)
        if isinstance(error, OSError):  # Let the error name the final file.
            named = {str(partial): str(path) for partial, path in partials.items()}
            unnamed = str(paths[0]) if error.errno in DISK_ERRORS else error.filename
            error.filename = named.get(str(error.filename), unnamed)
        raise
    _flush_to_disk(folder)


@cache
def _leftovers(folder: Path) -> dict[str, list[Path]]:
    """Return the temporary files in a folder. The keys are the names of the final files.

    The folder is listed only once, because a listing for each write would take quadratic time.
    """
    found: dict[str, list[Path]] = {}
    for partial in folder.glob(f".*.{glob.escape(_HOST)}.*.partial"):
        found.setdefault(partial.name[1:].rpartition(f".{_HOST}.")[0], []).append(partial)
    return found


def _flush_to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def regular_file(path: str | Path) -> Path:
    """Return `path` if it is a regular file or a folder, which can be read without blocking.

    Raises UserError for a pipe or device, and OSError if the path does not exist.
    """
    path = Path(path)
    mode = path.stat().st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise UserError(f"{path}: a pipe or a device; use a regular file")
    return path


def files_below(folder: Path, left_out: Counter[str]) -> Iterator[tuple[str, int]]:
    """Yield the name and the size of each regular file below a folder.

    Symbolic links are followed, and hidden files are ignored. `left_out` counts all other entries
    that are skipped.
    """

    def fail(error: OSError) -> None:
        raise error

    start = len(f"{folder}/")
    for where, folders, files in os.walk(folder, onerror=fail, followlinks=True):
        here = Path(where)
        above = {each.resolve() for each in (here, *here.parents)}
        shown = [name for name in folders if not name.startswith(".")]
        folders[:] = [name for name in shown if (here / name).resolve() not in above]
        left_out["link that leads back"] += len(shown) - len(folders)
        # Use strings, because creating a Path takes longer than reading the size of a file, and
        # folders may have millions of files.
        for path in (f"{where}/{name}" for name in files if not name.startswith(".")):
            try:
                status = os.stat(path)  # noqa: PTH116
            except OSError as error:  # The file is a link to a missing file or to itself.
                reraise_fault(error, path)
                left_out["link to nothing"] += 1
                continue
            if stat.S_ISREG(status.st_mode):
                yield path[start:], status.st_size
            else:
                left_out["pipe, socket or device"] += 1


def check_place(file: str | Path) -> None:
    """Raise UserError if no file can be created at this path.

    Call this function before a long computation.
    """
    folder = next(each for each in Path(file).parents if each.exists())
    if not (folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)):
        raise UserError(f"{file}: {folder} is not a writable folder; choose another path")


def write_text(path: str | Path, text: str) -> None:
    with atomic_path(path) as partial:
        partial.write_text(text, "utf-8")


def write_json(path: str | Path, content: Any) -> None:
    """Write `content` as indented JSON. Raises ValueError for NaN and infinity."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def read_json(path: str | Path, kind: Any = Any, missing: str = "no such file") -> Any:
    """Read a JSON file. Raises UserError if it is missing, damaged or not of the type `kind`."""
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
    except (ValueError, RecursionError) as error:  # numbers of 5,000 digits, deeply nested lists
        raise UserError(f"{path}: not valid JSON ({error}); delete it and make it again") from None


def kept_in_cache(name: str, make: Callable[[], Any]) -> Any:
    """Return the JSON value in .cache/NAME. If it is missing, compute it with `make` and cache it.

    The value is cached together with its digest, and only if .cache exists. The value of a damaged
    file is recomputed.
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
    """Parse a JSON number. Raises ValueError for NaN, infinity and numbers that are too large."""
    if not math.isfinite(value := float(number)):
        raise ValueError(f"contains the number {number[:20]}")
    return value


def saved_step(run: Path, name: str = STEP) -> int:
    """Return the number in the file `name` of a run directory; 0 if there is no such file."""
    file = run / name
    return int(file.read_text()) if file.exists() else 0


def sha256_of_file(path: str | Path) -> str:
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def digest_of(content: Any) -> str:
    """Return the SHA-256 of the canonical JSON form of `content`."""
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def retried_in_slurm(read: Callable[P, T]) -> Callable[P, T]:
    """Decorate a function that reads a file: in a Slurm job, retry while it raises UserError.

    If another node has just written the file, its name, its size and its content may become visible
    one after the other. After LATE_SECONDS, the error is raised. Outside of Slurm jobs, and in
    interactive jobs, the error is raised at once.
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
