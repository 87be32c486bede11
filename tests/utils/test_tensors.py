"""Arrays in files are read unchanged, or refused in one line."""

import io
import json
import random
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import pytest
import torch
from safetensors.numpy import save

from psld.utils.errors import RunError, UserError
from psld.utils.tensors import (
    KEY,
    check_archive,
    digest_of_arrays,
    grouped,
    load_tensors,
    save_tensors,
)
from tests.commands import disk_full_after, files_below

ARRAYS = {
    "images": np.arange(24, dtype=np.uint8).reshape(2, 3, 4),
    "steps": np.array(7.5, np.float32),
    "none": np.zeros((0, 3)),
    "labels": np.arange(3) + 7 * 10**9,
}
ORIGIN = {"seed": 3, "rate": 1 / 3, "made of": ["a" * 64, None]}


def write(path: Path) -> str:
    return save_tensors(path, "shard", ARRAYS, ORIGIN)


def refused(path: Path, words: str, kind: str = "shard", sha256: str | None = None) -> None:
    with pytest.raises(UserError, match=words) as caught:
        load_tensors(path, kind, "make it again", sha256)
    assert str(caught.value).startswith(f"{path}: ")
    assert str(caught.value).endswith("; make it again")
    assert "\n" not in str(caught.value)


def test_saved_arrays_are_loaded_unchanged(tmp_path):
    sha256 = write(tmp_path / "new" / "x")
    stored = load_tensors(tmp_path / "new" / "x", "shard", "make it again", sha256)
    assert (stored.origin, stored.sha256) == (ORIGIN, sha256)
    assert stored.arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(stored.arrays[name], array, strict=True)
        assert torch.equal(stored.tensors()[name], torch.from_numpy(array))


def test_equal_arrays_give_equal_files(tmp_path):
    """The order, the memory layout and the library of the arrays do not matter."""
    write(tmp_path / "x")
    other = {name: torch.from_numpy(ARRAYS[name]) for name in reversed(ARRAYS)}
    other["images"] = other["images"].transpose(0, 2).contiguous().transpose(0, 2)
    save_tensors(tmp_path / "y", "shard", other, dict(reversed(ORIGIN.items())) | ORIGIN)
    assert load_tensors(tmp_path / "y", "shard", "").sha256 == write(tmp_path / "x")
    save_tensors(tmp_path / "z", "shard", dict(reversed(ARRAYS.items())), ORIGIN)
    assert (tmp_path / "z").read_bytes() == (tmp_path / "x").read_bytes()


def test_the_digest_includes_kind_arrays_and_origin():
    changed = [
        ("shard", ARRAYS, ORIGIN),
        ("weights", ARRAYS, ORIGIN),
        ("shard", ARRAYS, ORIGIN | {"seed": 4}),
        ("shard", ARRAYS | {"more": ARRAYS["none"]}, ORIGIN),
        ("shard", ARRAYS | {"images": ARRAYS["images"].reshape(3, 2, 4)}, ORIGIN),
        ("shard", ARRAYS | {"images": ARRAYS["images"].view(np.int8)}, ORIGIN),
        ("shard", ARRAYS | {"labels": ARRAYS["labels"] + 1}, ORIGIN),
    ]
    assert len({digest_of_arrays(*each) for each in changed}) == len(changed)


def test_a_flipped_bit_is_always_detected(tmp_path):
    """The only exceptions are bits in the padding of the header, which change nothing."""
    sha256 = write(tmp_path / "x")
    whole = (tmp_path / "x").read_bytes()
    taken = 0
    for position in range(len(whole)):
        content = bytearray(whole)
        content[position] ^= 1 << random.Random(position).randrange(8)
        (tmp_path / "x").write_bytes(content)
        try:
            stored = load_tensors(tmp_path / "x", "shard", "make it again")
        except UserError as error:
            assert "\n" not in str(error)  # noqa: PT017
            continue
        assert (stored.origin, stored.sha256) == (ORIGIN, sha256)
        assert digest_of_arrays("shard", stored.arrays, stored.origin) == sha256
        taken += 1
    assert taken < 10


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "x"
    refused(path, "no such file")
    path.write_text("no arrays")
    refused(path, "damaged shard file, or written by another program")
    for header in ({}, {KEY: "{"}, {KEY: "[]"}, {KEY: json.dumps({"kind": "shard"})}):
        path.write_bytes(save(ARRAYS, header))
        refused(path, "damaged shard file, or written by another program")
    path.unlink()
    path.symlink_to(path)
    refused(path, "damaged shard file.*Too many levels of symbolic links")
    path.unlink()
    sha256 = write(path)
    refused(path, "a shard file, not a weights file", kind="weights")
    other = f"{int(sha256[0] == '0')}{sha256[1:]}"
    refused(path, "differs from the recorded shard file", sha256=other)


def test_a_header_with_impossible_sizes_allocates_nothing(tmp_path):
    layout = {"images": {"dtype": "U8", "shape": [10**15], "data_offsets": [0, 10**15]}}
    header = json.dumps(layout).encode()
    (tmp_path / "x").write_bytes(len(header).to_bytes(8, "little") + header + bytes(10))
    refused(tmp_path / "x", "damaged shard file")
    (tmp_path / "x").write_bytes((10**15).to_bytes(8, "little") + header)
    refused(tmp_path / "x", "damaged shard file")


def test_a_file_that_does_not_fit_into_memory_is_named(tmp_path, monkeypatch):
    def load(content: bytes) -> None:
        raise MemoryError("Unable to allocate 9 TiB")

    write(tmp_path / "x")
    monkeypatch.setattr("psld.utils.tensors.load", load)
    complaint = r"x: not enough memory to read this file \(Unable to allocate 9 TiB\)"
    with pytest.raises(RunError, match=complaint):
        load_tensors(tmp_path / "x", "shard", "make it again")


def test_a_full_disk_keeps_the_existing_file(tmp_path):
    write(tmp_path / "x")
    before, size = files_below(tmp_path), (tmp_path / "x").stat().st_size
    for limit in (0, 100, size // 2, size - 1):
        with disk_full_after(limit), pytest.raises(OSError, match="File too large") as caught:
            write(tmp_path / "x")
        assert caught.value.filename == str(tmp_path / "x")
        assert files_below(tmp_path) == before


def test_tensors_are_grouped_by_the_first_part_of_their_names():
    tensors = {name: torch.tensor(i) for i, name in enumerate(("a.b.c", "d", "a.e"))}
    groups = {part: list(each) for part, each in grouped(tensors).items()}
    assert groups == {"a": ["b.c", "e"], "d": [""]}


def test_files_of_torch_are_verified_and_rewound():
    stream = io.BytesIO()
    torch.save({"x": torch.arange(1000)}, stream)
    check_archive(stream)
    assert stream.tell() == 0
    content = bytearray(stream.getvalue())
    content[content.index(torch.arange(1000).numpy().tobytes()) + 100] ^= 1
    with pytest.raises(BadZipFile, match="data"):
        check_archive(io.BytesIO(content))
    check_archive(io.BytesIO(b"of torch 1.5"))
