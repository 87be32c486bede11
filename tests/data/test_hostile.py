"""Archives, pictures and folders that would harm: one line, or the right result; never more memory.

`prepare` is run as users run it, so each also shows what it prints.
"""

import io
import os
import stat
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from psld.data import picture, source
from psld.data.picture import BrokenPicture, decode
from psld.data.source import FileTree
from psld.utils.errors import UserError
from tests.commands import Finished, call, refused, succeeded
from tests.data.formats import encode, random_images, write_files, write_zip

GOOD = {f"{i}.png": encode(random_images(8, 8, seed=i)) for i in range(3)}


def prepare(root: Path, *overrides: str) -> Finished:
    dataset = ("dataset=folder", "dataset.name=mine", f"dataset.source.root='{root}'")
    shape = ("dataset.channels=1", "dataset.image_size=8", "dataset.num_classes=0")
    return call(root.parent, "prepare", *dataset, *shape, "output=mine.h5", *overrides)


def declare(path: Path, name: str, size: int) -> None:
    """Let the archive say another unpacked size of a member, in both of its places."""
    data = bytearray(path.read_bytes())
    for signature, offset, header in ((b"PK\3\4", 22, 30), (b"PK\1\2", 24, 46)):
        start = data.index(signature)
        while data[start + header : start + header + len(name)] != name.encode():
            start = data.index(signature, start + 4)
        data[start + offset : start + offset + 4] = struct.pack("<I", size)
    path.write_bytes(data)


def png(width: int, height: int, kind: int = 0) -> bytes:
    """A PNG whose header says this size, with next to no pixels."""

    def chunk(name: bytes, content: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + checksum

    header = struct.pack(">IIBBBBB", width, height, 8, kind, 0, 0, 0)
    end = chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + end


@pytest.mark.parametrize("name", ["../outside.png", "a/../../outside.png", "/etc/outside.png"])
def test_a_path_that_leads_out_of_an_archive_is_refused(tmp_path, name):
    root = write_zip(tmp_path / "faces.zip", {**GOOD, name: GOOD["0.png"]})
    refused(prepare(root), 2, "faces.zip: the path", name, "leads out of the archive")
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["faces.zip"]


def test_a_link_in_an_archive_is_a_broken_picture(tmp_path):
    """Its content is the path of its target, and nothing follows it."""
    (tmp_path / "secret.png").write_bytes(GOOD["0.png"])
    root = write_zip(tmp_path / "faces.zip", GOOD)
    link = zipfile.ZipInfo("link.png")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(root, "a") as packed:
        packed.writestr(link, "secret.png")
    refused(prepare(root), 2, "faces.zip/link.png: broken picture (not a picture)")


def test_a_bomb_is_not_unpacked(tmp_path):
    root = write_zip(tmp_path / "faces.zip", {**GOOD, "bomb.png": bytes(1 << 20)})
    declare(root, "bomb.png", 0xFFFF_FFF0)
    refused(
        prepare(root), 2, "faces.zip/bomb.png: broken picture (4,096 MiB; at most 256 are read)"
    )


def test_a_bomb_that_declares_a_small_size_is_not_unpacked(tmp_path):
    """zipfile stops at the declared size."""
    root = write_zip(tmp_path / "faces.zip", {**GOOD, "bomb.png": bytes(8 << 20)})
    declare(root, "bomb.png", 1000)
    refused(prepare(root), 2, "faces.zip/bomb.png: broken picture (Bad CRC-32")


def test_a_huge_file_in_a_folder_is_not_read(tmp_path):
    root = write_files(tmp_path / "faces", GOOD)
    with (root / "huge.png").open("wb") as file:
        file.truncate(source.MAX_BYTES + (1 << 20))
    refused(prepare(root), 2, "faces/huge.png: broken picture (257 MiB; at most 256 are read)")


@pytest.mark.slow
def test_an_archive_of_many_members(tmp_path):
    count = 100_000
    root = tmp_path / "faces.zip"
    with zipfile.ZipFile(root, "w") as packed:
        for i in range(count):
            packed.writestr(f"{i:06d}.png", b"")
    assert len(FileTree(root).picture_names()) == count


def test_an_encrypted_archive_is_one_line(tmp_path):
    root = write_zip(tmp_path / "faces.zip", GOOD)
    data = root.read_bytes().replace(b"PK\3\4\x14\0\0", b"PK\3\4\x14\0\1")
    root.write_bytes(data.replace(b"PK\1\2\x14\3\x14\0\0", b"PK\1\2\x14\3\x14\0\1"))
    refused(prepare(root), 2, "faces.zip/", "encrypted")


@pytest.mark.parametrize("cut", [10, 200, 0.5, -1, -30])
def test_an_archive_that_is_cut_off_is_one_line(tmp_path, cut):
    root = write_zip(tmp_path / "faces.zip", GOOD)
    data = root.read_bytes()
    root.write_bytes(data[: int(cut * len(data)) if cut == 0.5 else cut])
    refused(prepare(root), 2, "faces.zip: not a whole zip archive")


def test_of_two_members_of_one_name_the_later_counts_once(tmp_path):
    root = write_zip(tmp_path / "faces.zip", {"0.png": b"older"})
    with zipfile.ZipFile(root, "a") as packed, pytest.warns(UserWarning, match="Duplicate"):
        packed.writestr("0.png", GOOD["0.png"])
    tree = FileTree(root)
    assert tree.names == ["0.png"]
    assert tree.read("0.png") == GOOD["0.png"]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (png(100_000, 100_000), "Image size (10000000000 pixels) exceeds"),
        (png(9_500, 9_500), "9500×9500 pixels; at least one"),
        (png(2**31 - 1, 2**31 - 1), ""),
        (png(0, 0), ""),
        (png(0, 8), ""),
        (png(100, 100), "image file is truncated"),
        (b"", "not a picture"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n", "not a picture"),
        (GOOD["0.png"][:60], ""),
    ],
    ids=["huge", "large", "largest", "zero", "narrow", "empty", "nothing", "program", "cut off"],
)
def test_a_picture_of_an_absurd_size_is_refused_in_one_line(tmp_path, data, reason):
    root = write_files(tmp_path / "faces", {**GOOD, "odd.png": data})
    refused(prepare(root), 2, f"{root}/odd.png: broken picture ({reason}")


def test_of_a_damaged_tiff_libtiff_prints_nothing(capfd):
    stream = io.BytesIO()
    pixels = Image.fromarray(random_images(64, 64))
    pixels.save(stream, "tiff", compression="tiff_adobe_deflate")
    stream.getbuffer()[len(stream.getvalue()) // 2] ^= 1
    with pytest.raises(BrokenPicture):
        decode(stream.getvalue(), "x")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("mode", "kind"), [("I;16", "png"), ("F", "tiff"), ("LAB", "tiff")])
def test_a_mode_that_would_be_clipped_is_refused(mode, kind):
    stream = io.BytesIO()
    Image.new(mode, (8, 8)).save(stream, kind)
    with pytest.raises(BrokenPicture, match=f"x: broken picture .mode {mode}, not 8 bits"):
        decode(stream.getvalue(), "x")


@pytest.mark.parametrize("kind", ["png", "gif", "webp", "tiff"])
def test_an_animation_is_its_first_frame(kind):
    frames = [Image.new("RGB", (8, 8), color) for color in ((255, 0, 0), (0, 255, 0))]
    stream = io.BytesIO()
    options = {"lossless": True} if kind == "webp" else {}
    frames[0].save(stream, kind, save_all=True, append_images=frames[1:], **options)
    shown = picture.to_channels(decode(stream.getvalue(), "x"), 3)
    assert (np.asarray(shown) == [255, 0, 0]).all()


def test_a_folder_that_is_linked_into_itself_is_refused(tmp_path):
    root = write_files(tmp_path / "faces", {f"a/{name}": data for name, data in GOOD.items()})
    (root / "a" / "again").symlink_to(root)
    refused(prepare(root), 2, "faces/a/again: a link to a folder that it lies in")


def test_broken_links_and_special_files_are_named(tmp_path):
    root = write_files(tmp_path / "faces", GOOD)
    (root / "gone.png").symlink_to(tmp_path / "nothing.png")
    refused(prepare(root), 2, "faces/gone.png: cannot be read", "No such file")
    (root / "gone.png").unlink()
    os.mkfifo(root / "pipe.png")
    with pytest.raises(UserError, match=r"pipe\.png: not a regular file"):
        FileTree(root).read("pipe.png")
    refused(prepare(root), 2, "faces/pipe.png: not a regular file")


def test_a_link_to_a_picture_outside_is_that_picture(tmp_path):
    outside = write_files(tmp_path / "outside", GOOD)
    root = tmp_path / "faces"
    root.mkdir()
    for name in GOOD:
        (root / name).symlink_to(outside / name)
    assert succeeded(prepare(root)).stdout.count("3 train") == 1
