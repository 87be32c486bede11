"""GPUs of this machine, shared out among processes: each GPU has a lock that dies with its holder.

Imports no torch. The scheduler's choice, CUDA_VISIBLE_DEVICES, is respected.
"""

import fcntl
import itertools
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from psld.utils.locks import sole_holder

LOCKS = Path(tempfile.gettempdir()) / f"psld-gpus-{os.getuid()}"
"""Folder of the locks. Each is named by a GPU's UUID."""

WAITING = "waiting for a free GPU; device=cuda:0 would share one"

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
    names = [name.strip() for name in visible.split(",") if name.strip()]
    return {name: uuids.get(name, name) for name in names}


def take_gpus(uuids: Sequence[str], count: int = 1, *, past_exec: bool = False) -> list[int]:
    """Hold `count` of these GPUs until this process ends, or, without `past_exec`, until its exec.

    Returns their positions. Waits while they are taken. One process after the other chooses, so
    two that need several GPUs cannot wait for each other.
    """
    taken: list[int] = []
    with sole_holder(LOCKS / "queue", WAITING):
        for attempt in itertools.count():
            for position, uuid in enumerate(uuids):
                if len(taken) < count and position not in taken and _take(uuid):
                    os.set_inheritable(_held[uuid], past_exec)
                    taken.append(position)
            if len(taken) == count:
                break
            if attempt == 0:
                print(WAITING, flush=True)
            time.sleep(1)
    return sorted(taken)


def _take(uuid: str) -> bool:
    """Hold the lock of a GPU if it is free. It is not released."""
    if uuid in _held:
        return True
    descriptor = os.open(LOCKS / f"{uuid}.lock", os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return False
    _held[uuid] = descriptor
    return True
