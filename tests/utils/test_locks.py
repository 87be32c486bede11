"""A lock that waits for its holder only while the holder is alive."""

import errno
import fcntl
import os
import threading

import pytest

from psld.utils.errors import UserError
from psld.utils.locks import held_if_free, sole_holder


@pytest.fixture
def lock(tmp_path):
    return tmp_path / "launches" / "lock"


def test_a_free_lock_is_taken_without_a_message_also_after_an_error(lock, capsys):
    with pytest.raises(ZeroDivisionError), sole_holder(lock, "waiting"):
        raise ZeroDivisionError
    with sole_holder(lock, "waiting"):
        pass
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EIO])
def test_a_file_system_without_locks_is_named(lock, number, monkeypatch):
    """Other failures keep their messages."""

    def flock(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    said = (
        "Input/output error" if number == errno.EIO else "launches/lock: this file system does not"
    )
    kind = OSError if number == errno.EIO else UserError
    with pytest.raises(kind, match=said), sole_holder(lock, "waiting"):
        pass


def test_a_process_waits_until_the_holder_releases_the_lock(lock, capsys):
    """Kernel locks belong to an open file, not to a process, and end when the file is closed."""
    taken = threading.Event()

    def take():
        with sole_holder(lock, "waiting"):
            taken.set()

    with held_if_free(lock) as is_held:
        assert is_held
        with held_if_free(lock) as is_held_twice:
            assert not is_held_twice
        waiting = threading.Thread(target=take)
        waiting.start()
        assert not taken.wait(timeout=0.2)
    assert taken.wait(timeout=10)
    waiting.join()
    assert capsys.readouterr().out == "waiting\n", "said once"
