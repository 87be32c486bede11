"""A lock between processes that ends with its holder, however that ends."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from psld.errors import UserError


@contextmanager
def sole_holder(path: Path, waiting: str) -> Iterator[None]:
    """Hold the lock; where another process holds it, print `waiting` and wait for its end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Without the fallback: a lock that is a mere file would outlive its holder.
    lock = FileLock(path, fallback_to_soft=False)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        print(waiting, flush=True)
        lock.acquire(poll_interval=1)
    except OSError as error:
        if error.errno != errno.ENOSYS:
            raise
        raise UserError(
            f"{path}: this file system has no locks; put runs, or the checkout, on one that has "
            "(Lustre: mounted with -o flock)"
        ) from None
    try:
        yield
    finally:
        lock.release()
