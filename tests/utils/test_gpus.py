"""The GPUs of a machine, shared out among processes by locks."""

import os
import subprocess
import sys
import threading
from pathlib import Path
from unittest.mock import Mock

import pytest

from psld.utils import locks
from psld.utils.errors import UserError
from psld.utils.locks import release_gpus, take_gpus, visible_gpus
from tests.cluster.conftest import commands  # noqa: F401

TWO = "GPU 0: A100 (UUID: GPU-a)\nGPU 1: A100 (UUID: GPU-b)\n"

TAKE = """
import sys
import threading
from pathlib import Path
from psld.utils import locks
locks.GPU_LOCKS = Path(sys.argv[1])
print(*locks.take_gpus(sys.argv[3:], int(sys.argv[2])), flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(locks, "GPU_LOCKS", tmp_path / "locks")
    monkeypatch.setattr(locks, "_held", {})
    return locks.GPU_LOCKS


@pytest.fixture
def job(folder):
    """Starts a process that takes GPUs and keeps them until it is killed."""
    processes = []

    def start(count: int, among: str = "abc") -> subprocess.Popen[str]:
        command = [sys.executable, "-c", TAKE, str(folder), str(count), *among]
        pipe = subprocess.PIPE
        processes.append(subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def says(process: subprocess.Popen[str]) -> str:
    """The next line of a process; it is killed if it says nothing for long."""
    too_late = threading.Timer(20, process.kill)
    too_late.start()
    line = process.stdout.readline().strip()
    too_late.cancel()
    return line


def test_each_job_has_a_gpu_of_its_own_and_waits_for_a_free_one(job):
    """Also after a kill of the holder."""
    holders = []
    for number in "012":
        holders.append(job(1))
        assert says(holders[-1]) == number
    waiting = job(1)
    assert says(waiting).startswith("waiting for a free GPU")
    holders[1].kill()
    assert says(waiting) == "1"


def test_a_job_of_several_gpus_waits_and_holds_none_meanwhile(job):
    first = job(2)
    assert says(first) == "0 1"
    several = job(3)
    assert says(several) == "waiting for a free GPU"
    single = job(1)
    answer = says(single)
    if answer.startswith("waiting"):  # The other looked just then if there are enough.
        answer = says(single)
    assert answer == "2", "the third is free while the other waits"
    first.kill()
    single.kill()
    assert says(several) == "0 1 2"


def test_a_process_keeps_its_gpu():
    """Each model of a sweep is trained on the same."""
    assert take_gpus(["a", "b"]) == take_gpus(["a", "b"]) == [0]
    assert take_gpus(["b", "a"]) == [1], "and no second one"
    assert take_gpus(["b", "a"], 2) == [0, 1], "in the order of the machine"
    release_gpus()
    assert take_gpus(["a", "b"]) == [0]
    assert list(locks._held) == ["a"]


def test_a_gpu_that_is_given_back_is_another_s(job):
    take_gpus(["a"])
    waiting = job(1, "a")
    assert says(waiting).startswith("waiting for a free GPU")
    release_gpus()
    assert says(waiting) == "0"


def test_a_process_that_waits_for_more_keeps_what_it_had(job, monkeypatch):
    take_gpus(["a"])
    assert says(job(1, "b")) == "0"
    monkeypatch.setattr(locks.time, "sleep", Mock(side_effect=TimeoutError))
    with pytest.raises(TimeoutError):
        take_gpus(["a", "b", "c"], 3)
    assert list(locks._held) == ["a"]
    assert take_gpus(["a", "c"], 2) == [0, 1]
    release_gpus()
    assert not locks._held


@pytest.mark.parametrize("past_exec", [False, True])
def test_a_process_that_becomes_another_keeps_its_gpus_if_it_says_so(past_exec):
    take_gpus(["a", "b"], 2, past_exec=past_exec)
    assert [os.get_inheritable(each) for each in locks._held.values()] == [past_exec] * 2


def test_the_folder_of_the_locks_is_the_users_own(folder, monkeypatch):
    take_gpus(["a"])
    assert folder.stat().st_mode & 0o777 == 0o700
    monkeypatch.setattr(os, "geteuid", lambda: folder.stat().st_uid + 1)
    with pytest.raises(UserError, match=r"locks: belongs to another user.*PSLD_GPU_LOCKS"):
        take_gpus(["b"])


def test_the_folder_of_the_locks_can_be_another_one(tmp_path):
    """For a machine on which somebody else has taken the name of the usual one."""
    code = "from psld.utils import locks; print(locks.take_gpus(['a']))"
    environment = {**os.environ, "PSLD_GPU_LOCKS": str(tmp_path / "mine")}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["a.lock"]


def test_gpus_that_a_process_may_use(commands, monkeypatch):  # noqa: F811
    assert visible_gpus() == {}, "no driver"
    commands.answer("nvidia-smi", TWO)
    assert visible_gpus() == {"GPU-a": "GPU-a", "GPU-b": "GPU-b"}
    for visible, expected in {
        "": {},
        " ": {},
        "1": {"1": "GPU-b"},
        "0,1": {"0": "GPU-a", "1": "GPU-b"},
        "GPU-b, 0": {"GPU-b": "GPU-b", "0": "GPU-a"},
    }.items():
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        assert visible_gpus() == expected
    commands.answer("nvidia-smi", "NVIDIA-SMI has failed\n", exit_code=9)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert visible_gpus() == {}
