"""File and GPU locks between processes. A lock is released when its process exits or is killed.

The module does not import torch.
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
"""Error numbers of a file system that has no locks, or whose lock server does not answer."""


@contextmanager
def sole_holder(path: Path, waiting: str) -> Iterator[None]:
    """Hold a lock in this context. If another process holds the lock, print `waiting` and wait."""
    with _opened(path) as descriptor:
        if not _is_locked(descriptor, path):
            print(waiting, flush=True)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield


@contextmanager
def held_if_free(path: Path) -> Iterator[bool]:
    """Hold a lock in this context if it is free. Yields False if another process holds the lock."""
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
            f"{path}: this file system does not support locks ({error.strerror}); move runs, or "
            "the checkout, to one that does (Lustre: mount with -o flock)"
        ) from None
    return True


# -- distribution of the visible GPUs of this machine among processes

GPU_LOCKS = Path(os.environ.get("PSLD_GPU_LOCKS") or f"/tmp/psld-gpus-{os.getuid()}")
"""Folder of the GPU locks. All jobs of a user on a machine share this folder, so it does not depend
on TMPDIR. The name of each lock is the UUID of a GPU."""

_held: dict[str, int] = {}
"""File descriptors of the locks that this process holds, keyed by the UUID of the GPU."""


def visible_gpus() -> dict[str, str]:
    """Return the UUIDs of the visible GPUs, keyed by their names in CUDA_VISIBLE_DEVICES."""
    listed = ""
    if shutil.which("nvidia-smi"):
        command = ["nvidia-smi", "--list-gpus"]
        listed = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    uuids = dict(re.findall(r"^GPU (\d+): .*\(UUID: (\S+)\)", listed, re.MULTILINE))
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return {uuid: uuid for uuid in uuids.values()}
    names = [name.strip() for name in visible.split(",")]
    # Like CUDA, stop at the first invalid name, such as -1.
    gpus = itertools.takewhile(re.compile("[0-9]+$|GPU-|MIG-").match, names)
    return {name: uuids.get(name, name) for name in gpus}


def take_gpus(uuids: Sequence[str], count: int = 1, *, past_exec: bool = False) -> list[int]:
    """Lock `count` of these GPUs, and return their positions in `uuids`.

    The function waits until enough GPUs are free. The locks are released by `release_gpus` or when
    the process exits. A call of exec also releases them, unless `past_exec` is True. GPUs that this
    process has already locked come first. While the process waits, it releases all newly locked
    GPUs, so that two processes that need several GPUs cannot wait for each other.

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
            # Suggest device=cuda:0 only for a single process; ranks cannot choose their device.
            share = "; device=cuda:0 would share a GPU" if count == 1 else ""
            print(f"waiting for a free GPU{share}", flush=True)
        time.sleep(1)
    for uuid in taken:
        os.set_inheritable(_held[uuid], past_exec)
    return sorted(map(list(uuids).index, taken))


def release_gpus() -> None:
    """Release all GPU locks of this process."""
    while _held:
        os.close(_held.popitem()[1])


def _take(uuid: str) -> bool:
    """Lock a GPU if it is free. Returns True on success."""
    path = GPU_LOCKS / f"{uuid}.lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    if _is_locked(descriptor, path):
        _held[uuid] = descriptor
        return True
    os.close(descriptor)
    return False
