"""A lock that waits for its holder only while the holder is alive."""

import errno
import fcntl
import os
import subprocess
import sys
import threading

import pytest

from psld.utils.errors import UserError
from psld.utils.locks import held_if_free, sole_holder

HOLDER = """
import sys, time
from pathlib import Path
from psld.utils.locks import held_if_free, sole_holder
with sole_holder(Path("launches/lock"), "waiting for another"):
    print("mine", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def lock(tmp_path):
    return tmp_path / "launches" / "lock"


@pytest.fixture
def holder(tmp_path):
    """A process that holds the lock until it is told, or killed."""
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", HOLDER]
    with subprocess.Popen(command, cwd=tmp_path, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout.readline() == "mine\n"
        yield process
        process.kill()


def test_one_that_nobody_holds_is_taken_in_silence_also_after_an_error(lock, capsys):
    with pytest.raises(ZeroDivisionError), sole_holder(lock, "waiting"):
        raise ZeroDivisionError
    with sole_holder(lock, "waiting"):
        pass
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_named(lock, number, monkeypatch):
    def flock(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    complaint = "launches/lock: this file system gives no locks"
    with pytest.raises(UserError, match=complaint), sole_holder(lock, "waiting"):
        pass


@pytest.mark.parametrize("end", ["lets go", "is killed"])
def test_it_is_waited_for_until_its_holder_ends(lock, holder, end, capsys):
    taken = threading.Event()

    def take():
        with sole_holder(lock, "waiting"):
            taken.set()

    waiting = threading.Thread(target=take)
    waiting.start()
    assert not taken.wait(timeout=1.5), "longer than it waits between two looks"
    assert capsys.readouterr().out == "waiting\n"
    holder.kill() if end == "is killed" else holder.communicate("\n")
    assert taken.wait(timeout=10)
    waiting.join()
    assert capsys.readouterr().out == "", "said once"


def test_a_lock_that_is_not_waited_for(lock, holder):
    with held_if_free(lock) as is_held:
        assert not is_held
    holder.communicate("\n")
    with held_if_free(lock) as is_held:
        assert is_held


def test_another_failure_keeps_its_own_words(lock, monkeypatch):
    def flock(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(OSError, match="Input/output error"), sole_holder(lock, "waiting"):
        pass
