"""Files that are either complete or absent after any interruption of their writing."""

import errno
import math
import os
import subprocess
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from psld.utils import files
from psld.utils.errors import UserError
from psld.utils.files import (
    atomic_path,
    check_place,
    digest_of,
    make_private,
    read_json,
    regular_file,
    retried_in_slurm,
    sha256_of_file,
    write_json,
    write_text,
)
from psld.utils.tensors import load_tensors
from tests.commands import disk_full_after, files_below, read_only


def test_a_file_appears_only_when_it_is_complete(tmp_path):
    path = tmp_path / "new" / "folder" / "file.txt"
    with atomic_path(path) as partial:
        assert partial.parent == path.parent, "renaming is atomic within a folder only"
        partial.write_text("half")
        assert not path.exists()
    assert files_below(tmp_path) == {"new/folder/file.txt": b"half"}


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_exception_keeps_the_existing_file(tmp_path, error):
    path = tmp_path / "file.txt"
    write_text(path, "old")

    def write_half():
        with atomic_path(path) as partial:
            partial.write_text("half")
            raise error

    with pytest.raises(error):
        write_half()
    assert files_below(tmp_path) == {"file.txt": b"old"}


def test_a_file_is_flushed_before_it_is_renamed(tmp_path, monkeypatch):
    """The name is flushed at the end. After a power cut, either the old or the new file exists."""
    on_disk, fsync = [], os.fsync

    def note(descriptor):
        place = Path(f"/proc/self/fd/{descriptor}").readlink()
        on_disk.append((place == tmp_path, (tmp_path / "file.txt").exists()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    write_text(tmp_path / "file.txt", "text")
    assert on_disk == [(False, False), (True, True)]


def test_a_writer_removes_only_the_partial_files_of_killed_writers(tmp_path):
    with subprocess.Popen(["true"]) as dead:
        dead.wait()
    host = files._HOST
    names = {"killed": f".[x].txt.{host}.{dead.pid}.partial"}
    names["living"] = f".[x].txt.{host}.1.partial"
    names["of another machine"] = f".[x].txt.{host}2.{dead.pid}.partial"
    names["of another file"] = f".x.txt.{host}.{dead.pid}.partial"
    for name in names.values():
        (tmp_path / name).write_text("half")
    write_text(tmp_path / "[x].txt", "whole")
    left = {names[which] for which in ("living", "of another machine", "of another file")}
    assert set(files_below(tmp_path)) == {"[x].txt", *left}


def test_two_writers_of_a_file_do_not_conflict(tmp_path, monkeypatch):
    with atomic_path(tmp_path / "file.txt") as first:
        first.write_text("first")
        monkeypatch.setattr(os, "getpid", lambda: 1)  # another process, which lives
        write_text(tmp_path / "file.txt", "second")
    assert files_below(tmp_path) == {"file.txt": b"first"}


def test_the_error_for_a_read_only_folder_names_the_users_file(tmp_path):
    with read_only(tmp_path), pytest.raises(PermissionError) as caught:
        write_text(tmp_path / "file.txt", "text")
    assert caught.value.filename == str(tmp_path / "file.txt")


def test_a_link_at_the_temporary_name_is_not_followed(tmp_path):
    """In a folder that a group may write to, others can guess the name."""
    write_text(tmp_path / "victim.txt", "of somebody")
    with atomic_path(tmp_path / "file.txt") as partial:
        partial.write_text("old")
    partial.symlink_to("victim.txt")
    write_text(tmp_path / "file.txt", "new")
    assert files_below(tmp_path) == {"file.txt": b"new", "victim.txt": b"of somebody"}
    assert not (tmp_path / "file.txt").is_symlink()


def test_a_writer_that_writes_nothing_raises_an_error(tmp_path):
    write_text(tmp_path / "file.txt", "old")
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "file.txt"):
        pass
    assert files_below(tmp_path) == {"file.txt": b"old"}


def test_the_error_for_a_full_disk_names_the_users_file(tmp_path):
    path = tmp_path / "file.txt"
    write_text(path, "old")
    with disk_full_after(10), pytest.raises(OSError, match="File too large") as caught:
        write_text(path, "longer than ten bytes")
    assert (caught.value.errno, caught.value.filename) == (errno.EFBIG, str(path))
    assert files_below(tmp_path) == {"file.txt": b"old"}


def test_json_is_read_unchanged_and_excludes_nan_and_infinity(tmp_path):
    content = {"name": "Γ = 0.02", "values": [1, 2.5, None, True]}
    write_json(tmp_path / "x.json", content)
    for value in (math.nan, math.inf):
        with pytest.raises(ValueError, match="JSON"):
            write_json(tmp_path / "x.json", [value])
    assert read_json(tmp_path / "x.json") == content


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff\xfe\x00", b"1e999", b"[NaN]", b"9" * 5000, b"[" * 100_000 + b"]" * 100_000],
)
def test_damaged_and_missing_json_is_named(tmp_path, content):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(UserError, match=r"x\.json: not valid JSON .* delete it and make it again"):
        read_json(tmp_path / "x.json")
    with pytest.raises(UserError, match=r"y\.json: no such file"):
        read_json(tmp_path / "y.json")


def test_digests_depend_on_values_but_not_on_the_order_of_keys(tmp_path):
    (tmp_path / "empty").write_bytes(b"")
    # The SHA-256 of an empty input.
    assert sha256_of_file(tmp_path / "empty").startswith("e3b0c44298fc1c149afbf4c8996fb924")
    assert digest_of({"a": 1, "b": [2]}) == digest_of({"b": [2], "a": 1})
    assert digest_of({"a": 1}) != digest_of({"a": 2})
    assert digest_of({"a": 1}) != digest_of({"a": "1"})


def test_a_reader_does_not_wait_at_a_pipe_and_a_writer_replaces_none(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    (tmp_path / "device").symlink_to("/dev/zero")
    for name in ("pipe", "link", "device"):
        for use in (
            regular_file,
            read_json,
            lambda path: load_tensors(path, "shard", ""),
            lambda path: write_json(path, {}),
        ):
            with pytest.raises(UserError, match=f"{name}: a pipe or a device; use a regular file"):
                use(tmp_path / name)


def test_json_of_another_kind_is_named_with_its_place(tmp_path):
    write_json(tmp_path / "x.json", {"steps": ["1"]})
    assert read_json(tmp_path / "x.json", dict[str, list[str]]) == {"steps": ["1"]}
    complaint = r"x\.json: steps\.0: .*integer; delete the file and make it again"
    with pytest.raises(UserError, match=complaint):  # includes a text that looks like a number
        read_json(tmp_path / "x.json", dict[str, list[int]])
    with pytest.raises(UserError, match=r"x\.json: not a folder; the one that has y\.json is"):
        read_json(tmp_path / "x.json" / "y.json")


def test_a_private_folder_is_the_user_s_alone(tmp_path, monkeypatch):
    make_private(tmp_path / "new" / "folder")
    assert (tmp_path / "new" / "folder").stat().st_mode & 0o777 == 0o700
    for mode, is_refused in ((0o755, False), (0o720, True), (0o702, True)):
        (tmp_path / "new").chmod(mode)
        if is_refused:
            with pytest.raises(UserError, match="new: other users may write to this folder"):
                make_private(tmp_path / "new")
        else:
            make_private(tmp_path / "new")
            assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700
    (tmp_path / "link").symlink_to(tmp_path / "new" / "folder")
    os.lchown(tmp_path / "link", 1234, -1) if os.geteuid() == 0 else pytest.skip("needs root")
    with pytest.raises(UserError, match=r"link: belongs to another user; take another"):
        make_private(tmp_path / "link", "take another")


def test_an_output_in_an_unwritable_folder_is_refused_early(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", partial(os.access, effective_ids=True))  # see read_only
    check_place(tmp_path / "new" / "folder" / "x.zip")
    assert not (tmp_path / "new").exists()
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"x\.zip: .*file is not a writable folder"):
        check_place(tmp_path / "file" / "x.zip")
    said = r"x\.zip: .* is not a writable folder; choose another path"
    with read_only(tmp_path), pytest.raises(UserError, match=said):
        check_place(tmp_path / "new" / "x.zip")


@pytest.mark.parametrize(
    ("in_slurm", "is_typed", "late", "tries"),
    [(1, 0, 3, 4), (1, 0, 99, 61), (0, 0, 3, 1), (1, 1, 3, 1)],
)
def test_a_job_waits_a_minute_for_the_file_of_another_node(
    monkeypatch, capsys, in_slurm, is_typed, late, tries
):
    """Commands that a user types in an interactive job do not wait."""
    now, done = [0], []
    monkeypatch.setenv("SLURM_JOB_ID", "7") if in_slurm else monkeypatch.delenv(
        "SLURM_JOB_ID", raising=False
    )
    monkeypatch.setattr(files.sys, "stdin", SimpleNamespace(isatty=lambda: bool(is_typed)))
    monkeypatch.setattr(files.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(files.time, "sleep", lambda seconds: now.append(now.pop() + seconds))

    @retried_in_slurm
    def read(path: str, *, kind: str) -> str:
        done.append((path, kind))
        if len(done) <= late:
            raise UserError("x.json: no such file" if len(done) != 3 else "x.json: damaged")
        return "content"

    if tries > late:
        assert read("x.json", kind="a") == "content"
    else:
        with pytest.raises(UserError, match=r"^x\.json: no such file$"):
            read("x.json", kind="a")
    assert done == [("x.json", "a")] * tries
    waits = [f"{each}; waiting, another node" for each in ("no such file", "damaged") if tries > 1]
    out = capsys.readouterr().out
    assert [out.count(each) for each in waits] == [1 + (late == 99), 1][: len(waits)]
