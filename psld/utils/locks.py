"""A lock between processes that ends when its holder ends, even by a kill."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from psld.utils.errors import UserError

WITHOUT_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP}
"""The error numbers of a file system that has no locks, or whose lock server does not answer."""


@contextmanager
def sole_holder(path: Path, waiting: str) -> Iterator[None]:
    """Hold the lock; if another process holds it, print `waiting` and wait until it is free."""
    with held_if_free(path) as is_held:
        if is_held:
            yield
            return
    print(waiting, flush=True)
    with _lock(path).acquire(poll_interval=1):
        yield


@contextmanager
def held_if_free(path: Path) -> Iterator[bool]:
    """Hold the lock if it is free; yield True if it is held, False if another process has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = _lock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        yield False
        return
    except OSError as error:
        if error.errno not in WITHOUT_LOCKS:
            raise
        raise UserError(
            f"{path}: this file system gives no locks ({error.strerror}); put runs, or the "
            "checkout, on one that does (Lustre: mounted with -o flock)"
        ) from None
    try:
        yield True
    finally:
        lock.release()


def _lock(path: Path) -> FileLock:
    # No fallback to a plain file, which would outlive its holder.
    return FileLock(path, fallback_to_soft=False)
