"""A lock between processes that ends with its holder, however that ends."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout


@contextmanager
def sole_holder(path: Path, waiting: str) -> Iterator[None]:
    """Hold the lock; where another process holds it, print `waiting` and wait for its end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        print(waiting, flush=True)
        lock.acquire(poll_interval=1)
    try:
        yield
    finally:
        lock.release()
