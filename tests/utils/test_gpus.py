"""Locks distribute the GPUs of a machine among processes."""

import contextlib
import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import Mock

import pytest

from psld.utils import locks
from psld.utils.errors import UserError
from psld.utils.locks import release_gpus, take_gpus, visible_gpus
from tests.cluster.conftest import commands  # noqa: F401

TWO = "GPU 0: A100 (UUID: GPU-a)\nGPU 1: A100 (UUID: GPU-b)\n"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(locks, "GPU_LOCKS", tmp_path / "locks")
    monkeypatch.setattr(locks, "_held", {})
    return locks.GPU_LOCKS


@contextlib.contextmanager
def used(folder: Path, *uuids: str) -> Iterator[None]:
    """Other jobs, each of which holds one of these GPUs until the end."""
    with contextlib.ExitStack() as stack:
        for uuid in uuids:
            folder.mkdir(mode=0o700, exist_ok=True)
            lock = stack.enter_context((folder / f"{uuid}.lock").open("w"))
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def test_each_job_has_a_gpu_of_its_own_and_waits_for_a_free_one(folder, monkeypatch, capsys):
    """A waiting job holds no GPU; otherwise two jobs that need several GPUs could wait for each
    other."""
    for taken, free in ((), 0), (("a",), 1), (("a", "b"), 2):
        with used(folder, *taken):
            assert take_gpus(["a", "b", "c"]) == [free]
            release_gpus()
    assert capsys.readouterr().out == ""
    jobs = contextlib.ExitStack()
    jobs.enter_context(used(folder, "b"))
    looks = []

    def sleep(_: float) -> None:
        looks.append(list(locks._held))
        if len(looks) == 2:
            jobs.close()

    monkeypatch.setattr(locks.time, "sleep", sleep)
    assert take_gpus(["a", "b"], 2) == [0, 1]
    assert looks == [[], []]
    assert capsys.readouterr().out == "waiting for a free GPU\n"


def test_a_process_keeps_its_gpu():
    """Each model of a sweep is trained on the same GPU."""
    assert take_gpus(["a", "b"]) == take_gpus(["a", "b"]) == [0]
    assert take_gpus(["b", "a"]) == [1], "and no second one"
    assert take_gpus(["b", "a"], 2) == [0, 1], "in the order of the machine"
    release_gpus()
    assert take_gpus(["a", "b"]) == [0]
    assert list(locks._held) == ["a"]


def test_a_process_that_waits_for_more_keeps_what_it_had(folder, monkeypatch):
    take_gpus(["a"])
    monkeypatch.setattr(locks.time, "sleep", Mock(side_effect=TimeoutError))
    with used(folder, "b"), pytest.raises(TimeoutError):
        take_gpus(["a", "b", "c"], 3)
    assert list(locks._held) == ["a"]
    assert take_gpus(["a", "c"], 2) == [0, 1]
    release_gpus()
    assert not locks._held
    with used(folder, "a", "c"):
        pass


@pytest.mark.parametrize("past_exec", [False, True])
def test_gpus_stay_locked_after_exec_only_if_requested(past_exec):
    take_gpus(["a", "b"], 2, past_exec=past_exec)
    assert [os.get_inheritable(each) for each in locks._held.values()] == [past_exec] * 2


def test_the_folder_of_the_locks_is_the_users_own(folder, monkeypatch):
    take_gpus(["a"])
    assert folder.stat().st_mode & 0o777 == 0o700
    monkeypatch.setattr(os, "geteuid", lambda: folder.stat().st_uid + 1)
    with pytest.raises(UserError, match=r"locks: belongs to another user.*PSLD_GPU_LOCKS"):
        take_gpus(["b"])


def test_the_folder_of_the_locks_can_be_changed(tmp_path):
    """This is needed on a machine where another user owns the default folder."""
    code = "from psld.utils import locks; print(locks.take_gpus(['a']))"
    environment = {**os.environ, "PSLD_GPU_LOCKS": str(tmp_path / "mine")}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["a.lock"]


def test_visible_gpus_respects_cuda_visible_devices(commands, monkeypatch):  # noqa: F811
    assert visible_gpus() == {}, "no driver"
    commands.answer("nvidia-smi", TWO)
    assert visible_gpus() == {"GPU-a": "GPU-a", "GPU-b": "GPU-b"}
    for visible, expected in {
        "": {},
        " ": {},
        "1": {"1": "GPU-b"},
        "0,1": {"0": "GPU-a", "1": "GPU-b"},
        "-1": {},
        "NoDevFiles": {},
        "1,-1,0": {"1": "GPU-b"},
        "GPU-b, 0": {"GPU-b": "GPU-b", "0": "GPU-a"},
    }.items():
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        assert visible_gpus() == expected
    commands.answer("nvidia-smi", "NVIDIA-SMI has failed\n", exit_code=9)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert visible_gpus() == {}
