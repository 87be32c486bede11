"""Locks between processes that end when their holder ends, even by a kill: of a file, of a GPU.

Imports no torch.
"""

import errno
import fcntl
import itertools
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from psld.utils.errors import UserError
from psld.utils.files import make_private

WITHOUT_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP}
"""The error numbers of a file system that has no locks, or whose lock server does not answer."""


@contextmanager
def sole_holder(path: Path, waiting: str) -> Iterator[None]:
    """Hold the lock; if another process holds it, print `waiting` and wait until it is free."""
    with _opened(path) as descriptor:
        if not _is_locked(descriptor, path):
            print(waiting, flush=True)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield


@contextmanager
def held_if_free(path: Path) -> Iterator[bool]:
    """Hold the lock if it is free; yield True if it is held, False if another process has it."""
    with _opened(path) as descriptor:
        yield _is_locked(descriptor, path)


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _is_locked(descriptor: int, path: Path) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in WITHOUT_LOCKS:
            raise
        raise UserError(
            f"{path}: this file system gives no locks ({error.strerror}); put runs, or the "
            "checkout, on one that does (Lustre: mounted with -o flock)"
        ) from None
    return True


# -- the GPUs of this machine, shared out among processes within CUDA_VISIBLE_DEVICES

GPU_LOCKS = Path(os.environ.get("PSLD_GPU_LOCKS") or f"/tmp/psld-gpus-{os.getuid()}")
"""Folder of the locks, the same for all jobs of a user on a machine, whatever their TMPDIR is. Each
lock is named by a GPU's UUID."""

_held: dict[str, int] = {}
"""File descriptors of the locks that this process holds, by UUID."""


def visible_gpus() -> dict[str, str]:
    """Return the UUIDs of the GPUs that this process may use, by their CUDA_VISIBLE_DEVICES."""
    listed = ""
    if shutil.which("nvidia-smi"):
        command = ["nvidia-smi", "--list-gpus"]
        listed = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    uuids = dict(re.findall(r"^GPU (\d+): .*\(UUID: (\S+)\)", listed, re.MULTILINE))
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return {uuid: uuid for uuid in uuids.values()}
    names = [name.strip() for name in visible.split(",")]
    # CUDA stops, too, at the first name that is none, such as -1.
    gpus = itertools.takewhile(re.compile("[0-9]+$|GPU-|MIG-").match, names)
    return {name: uuids.get(name, name) for name in gpus}


def take_gpus(uuids: Sequence[str], count: int = 1, *, past_exec: bool = False) -> list[int]:
    """Hold `count` of these GPUs and return their positions. Waits while others hold them.

    The hold ends with `release_gpus` or this process. Unless `past_exec`, it ends at an exec too.
    GPUs that this process holds already come first. While it waits, it holds no others, so two
    processes that need several GPUs cannot wait for each other.

    Raises UserError if the folder of the locks belongs to another user.
    """
    remedy = "set PSLD_GPU_LOCKS to a folder of yours, the same for all your jobs here"
    make_private(GPU_LOCKS, remedy)
    taken: list[str] = []
    for attempt in itertools.count():
        earlier = [uuid for uuid in uuids if uuid in _held][:count]
        taken = list(earlier)
        for uuid in uuids:
            if len(taken) < count and uuid not in taken and _take(uuid):
                taken.append(uuid)
        if len(taken) == count:
            break
        for uuid in set(taken) - set(earlier):
            os.close(_held.pop(uuid))
        if attempt == 0:
            # Ranks have no choice of a device.
            share = "; device=cuda:0 would share one" if count == 1 else ""
            print(f"waiting for a free GPU{share}", flush=True)
        time.sleep(1)
    for uuid in taken:
        os.set_inheritable(_held[uuid], past_exec)
    return sorted(map(list(uuids).index, taken))


def release_gpus() -> None:
    """Let other processes take the GPUs that this process holds."""
    while _held:
        os.close(_held.popitem()[1])


def _take(uuid: str) -> bool:
    """Hold the lock of a GPU if it is free."""
    path = GPU_LOCKS / f"{uuid}.lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    if _is_locked(descriptor, path):
        _held[uuid] = descriptor
        return True
    os.close(descriptor)
    return False
