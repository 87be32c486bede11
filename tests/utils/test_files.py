"""Files that are either complete or absent after any interruption of their writing."""

import errno
import math
import os

import pytest

from psld.utils.errors import UserError
from psld.utils.files import (
    atomic_path,
    digest_of,
    read_json,
    regular_file,
    sha256_of_file,
    write_json,
    write_text,
)
from psld.utils.tensors import load_tensors
from tests.commands import disk_full_after, files_below


def test_a_file_appears_at_once_and_whole(tmp_path):
    path = tmp_path / "new" / "folder" / "file.txt"
    with atomic_path(path) as partial:
        assert partial.parent == path.parent, "renaming is atomic within a folder only"
        partial.write_text("half")
        assert not path.exists()
    assert files_below(tmp_path) == {"new/folder/file.txt": b"half"}


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_exception_leaves_what_was_there(tmp_path, error):
    path = tmp_path / "file.txt"
    write_text(path, "old")

    def write_half():
        with atomic_path(path) as partial:
            partial.write_text("half")
            raise error

    with pytest.raises(error):
        write_half()
    assert files_below(tmp_path) == {"file.txt": b"old"}


def test_what_a_killed_writer_left_is_overwritten(tmp_path):
    with atomic_path(tmp_path / "file.txt") as partial:
        partial.write_text("old")
    partial.write_text("half of a longer file")
    write_text(tmp_path / "file.txt", "new")
    assert files_below(tmp_path) == {"file.txt": b"new"}


@pytest.mark.parametrize("target", ["victim.txt", "absent.txt"])
def test_a_link_at_the_temporary_name_is_not_followed(tmp_path, target):
    """In a folder that a group may write to, others can guess the name."""
    write_text(tmp_path / "victim.txt", "of somebody")
    with atomic_path(tmp_path / "file.txt") as partial:
        partial.write_text("old")
    partial.symlink_to(target)
    write_text(tmp_path / "file.txt", "new")
    assert files_below(tmp_path) == {"file.txt": b"new", "victim.txt": b"of somebody"}
    assert not (tmp_path / "file.txt").is_symlink()


def test_a_writer_that_writes_nothing_is_noticed(tmp_path):
    write_text(tmp_path / "file.txt", "old")
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "file.txt"):
        pass
    assert files_below(tmp_path) == {"file.txt": b"old"}


def test_a_full_disk_is_told_of_the_file_that_the_user_knows(tmp_path):
    path = tmp_path / "file.txt"
    write_text(path, "old")
    with disk_full_after(10), pytest.raises(OSError, match="File too large") as caught:
        write_text(path, "longer than ten bytes")
    assert (caught.value.errno, caught.value.filename) == (errno.EFBIG, str(path))
    assert files_below(tmp_path) == {"file.txt": b"old"}


def test_json_comes_back_and_has_neither_nan_nor_infinity(tmp_path):
    content = {"name": "Γ = 0.02", "values": [1, 2.5, None, True]}
    write_json(tmp_path / "x.json", content)
    for value in (math.nan, math.inf):
        with pytest.raises(ValueError, match="JSON"):
            write_json(tmp_path / "x.json", [value])
    assert read_json(tmp_path / "x.json") == content


@pytest.mark.parametrize("content", [b"", b'{"a": 1', b"\xff\xfe\x00", b"1e999"])
def test_damaged_and_missing_json_is_named(tmp_path, content):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(UserError, match=r"x\.json: not valid JSON .* delete it and make it again"):
        read_json(tmp_path / "x.json")
    with pytest.raises(UserError, match=r"y\.json: no such file"):
        read_json(tmp_path / "y.json")


def test_digests(tmp_path):
    (tmp_path / "empty").write_bytes(b"")
    # SHA-256 of nothing, as everywhere.
    assert sha256_of_file(tmp_path / "empty").startswith("e3b0c44298fc1c149afbf4c8996fb924")
    assert digest_of({"a": 1, "b": [2]}) == digest_of({"b": [2], "a": 1})
    assert digest_of({"a": 1}) != digest_of({"a": 2})
    assert digest_of({"a": 1}) != digest_of({"a": "1"})


def test_a_reader_does_not_wait_at_a_pipe(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    (tmp_path / "device").symlink_to("/dev/zero")
    for name in ("pipe", "link", "device"):
        for read in (regular_file, read_json, lambda path: load_tensors(path, "shard", "")):
            with pytest.raises(UserError, match=f"{name}: a pipe or a device; a regular file is"):
                read(tmp_path / name)
