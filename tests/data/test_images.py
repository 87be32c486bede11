"""Read and write images in every file format."""

import os
import pickle
import tracemalloc

import numpy as np
import pytest
from PIL import Image

from psld.data.images import (
    SOURCE,
    FileTree,
    decode,
    located,
    read_images,
    read_npz,
    save_images,
    tiled,
    write_npz,
)
from psld.data.store import write_store
from psld.utils.errors import UserError
from tests.data.formats import encode, random_images, write_files, write_zip

IMAGES = random_images(5, 3, 4, 4)


def test_each_form_gives_the_same_images(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files = {f"{i}.png": encode(image.transpose(1, 2, 0)) for i, image in enumerate(IMAGES)}
    write_files(tmp_path / "pictures", files)
    write_zip(tmp_path / "pictures.zip", files)
    write_npz(tmp_path / "images.npz", IMAGES)
    np.testing.assert_array_equal(np.load("images.npz")["arr_0"], IMAGES.transpose(0, 2, 3, 1))
    (tmp_path / "data").mkdir()
    splits, more = {"train": 5, "test": 2}, random_images(2, 3, 4, 4, seed=1)
    labels = np.zeros(7, np.int64)
    write_store(tmp_path / "data/mine.h5", (3, 4, 4), splits, labels, 0, [IMAGES, more])
    for name in ("pictures", "pictures.zip", "images.npz", "mine", "data/mine.h5"):
        np.testing.assert_array_equal(read_images(name), IMAGES)
    with pytest.raises(UserError, match=r"yours: no such file or folder, .* data/yours\.h5"):
        located("yours")


def test_all_broken_pictures_are_listed_in_one_error(tmp_path):
    whole = encode(random_images(9, 9, 3))
    write_files(tmp_path, {f"{i:02d}.png": whole if i < 3 else whole[:50] for i in range(14)})
    with pytest.raises(UserError) as error:
        read_images(tmp_path)
    text = str(error.value)
    named = [f"{tmp_path}/{i:02d}.png: broken picture (" for i in range(3, 14)]
    assert [each in text for each in named] == [True] * 10 + [False]
    assert text.endswith(" and 1 more; remove or replace them")


def test_the_error_of_broken_pictures_ends_with_the_command_that_removes_them(tmp_path):
    whole = encode(random_images(9, 9, 3))
    write_files(tmp_path / "p", {"a 1.png": whole[:50], "b.png": whole[:60], "c.png": whole})
    write_zip(tmp_path / "p.zip", {"a.png": whole[:50], "b.png": whole[:60]})
    remove = f"; remove or replace them: rm '{tmp_path}/p/a 1.png' {tmp_path}/p/b.png"
    for name, ending in (("p", remove), ("p.zip", "; remove or replace them")):
        with pytest.raises(UserError) as error:
            read_images(tmp_path / name)
        assert str(error.value).endswith(ending)


def test_gray_pictures_among_colored_ones_become_colored(tmp_path):
    gray, colored = random_images(4, 4), random_images(4, 4, 3)
    write_files(tmp_path, {"1.png": encode(gray)})
    assert read_images(tmp_path).shape == (1, 1, 4, 4)
    write_files(tmp_path, {"2.png": encode(colored)})
    expected = np.stack([np.stack([gray] * 3), colored.transpose(2, 0, 1)])
    np.testing.assert_array_equal(read_images(tmp_path), expected)


def test_a_folder_of_pictures_is_held_in_memory_only_once(tmp_path):
    colored = random_images(64, 64, 3)
    write_files(tmp_path, {f"{i:03d}.png": encode(colored) for i in range(300)})
    tracemalloc.start()
    try:
        images = read_images(tmp_path, silent=True)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1.5 * images.nbytes


def test_pictures_that_cannot_fit_into_memory_are_refused_with_their_size(tmp_path, monkeypatch):
    def full(*_shape):
        raise MemoryError

    write_files(tmp_path, {"1.png": encode(random_images(4, 6)), "2.png": b""})
    monkeypatch.setattr("numpy.empty", full)
    said = r"6×4 pixels \(width×height\); 2 pictures of this size do not fit .*; image_size=N"
    with pytest.raises(UserError, match=said):
        read_images(tmp_path)


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (IMAGES, "arr_0: uint8 of 5×3×4×4; uint8 N×H×W×C with 1 or 3 channels is needed"),
        (IMAGES.transpose(0, 2, 3, 1).astype(int), "arr_0: int64 of 5×4×4×3"),
        (np.array([None]), "pickled objects, which can run code"),
    ],
)
def test_arrays_that_are_not_images_are_refused(tmp_path, array, said):
    np.savez(tmp_path / "x.npz", array)
    with pytest.raises(UserError, match=rf"x\.npz: .*{said}"):
        read_images(tmp_path / "x.npz")


class Bomb:
    """An object that ends the test run if it is unpickled."""

    def __reduce__(self):
        return exit, ("unpickled",)


def test_files_that_are_not_arrays_are_refused(tmp_path):
    np.savez(tmp_path / "damaged.npz", arr_0=np.zeros((4, 8, 8, 1), np.uint8))
    damaged = bytearray((tmp_path / "damaged.npz").read_bytes())
    damaged[300] ^= 1
    (tmp_path / "damaged.npz").write_bytes(damaged)
    (tmp_path / "pickle.npz").write_bytes(pickle.dumps(Bomb()))
    os.mkfifo(tmp_path / "pipe")
    for name, said in {
        "damaged.npz": r"not a valid \.npz of arrays \(.*CRC",
        "pickle.npz": "pickled objects, which can run code",
        "pipe": "a pipe or a device",
    }.items():
        with pytest.raises(UserError, match=rf"{name}: .*{said}"):
            read_images(tmp_path / name)


def test_arrays_are_read_by_their_names(tmp_path):
    np.savez(tmp_path / "x.npz", a=np.arange(3), b=np.arange(2))
    b, a = read_npz(tmp_path / "x.npz", ["b", "a"])
    assert (len(a), len(b)) == (3, 2)
    assert read_npz(tmp_path / "x.npz", ["a", "c"]) is None
    with pytest.raises(
        UserError, match=r"x\.npz: no array arr_0 in it, but a, b; save the images as"
    ):
        read_images(tmp_path / "x.npz")


def test_a_folder_accepts_pictures_of_one_source_only(tmp_path):
    save_images(IMAGES[:2], tmp_path / "x", source="a")
    save_images(IMAGES[2:], tmp_path / "x", first=2, source="a")
    assert sorted(path.name for path in (tmp_path / "x").iterdir()) == [
        f"{i:05d}.png" for i in range(5)
    ]
    np.testing.assert_array_equal(read_images(tmp_path / "x"), IMAGES)
    with pytest.raises(UserError, match=r"x: holds other pictures, such as 0000\d\.png; name"):
        save_images(IMAGES, tmp_path / "x", source="b")
    save_images(IMAGES, tmp_path / "y")
    save_images(IMAGES, tmp_path / "y")
    with pytest.raises(UserError, match="y: holds other pictures"):
        save_images(255 - IMAGES, tmp_path / "y")
    said = r"x\.jpg: images go into a folder, or into a file that ends in \.png"
    with pytest.raises(UserError, match=said):
        save_images(IMAGES, tmp_path / "x.jpg")
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(UserError, match=r"folder\.png: images go into a folder, or into a file"):
        save_images(IMAGES, tmp_path / "folder.png")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file: images go into a folder, or into a file that ends"):
        save_images(IMAGES, tmp_path / "file")


def test_a_single_picture_has_all_images_in_a_square_with_white_between(tmp_path):
    save_images(IMAGES[:, :1], tmp_path / "all.png", source="of a cell")
    picture = decode((tmp_path / "all.png").read_bytes(), "all.png")
    assert picture.info[SOURCE] == "of a cell"
    side, margin = 64, 4
    assert picture.size == (3 * (side + margin) + margin, 2 * (side + margin) + margin)
    pixels = np.asarray(picture)
    for i, (row, column) in enumerate(np.ndindex(2, 3)):
        top, left = margin + row * (side + margin), margin + column * (side + margin)
        shown = pixels[top : top + side, left : left + side]
        image = IMAGES[i, 0] if i < 5 else np.full((4, 4), 255)
        np.testing.assert_array_equal(shown, image.repeat(16, axis=0).repeat(16, axis=1))
        assert (pixels[top - margin : top, left : left + side] == 255).all()
        assert (pixels[top : top + side, left - margin : left] == 255).all()
    assert (pixels[-margin:] == 255).all()
    assert (pixels[:, -margin:] == 255).all()
    wide = tiled(random_images(1, 1, 8, 70), 1)
    assert wide.shape == (8 + 2 * 4, 70 + 2 * 4, 1), "64 pixels and more are shown as they are"


def test_pictures_are_recognized_by_names_and_sizes(tmp_path):
    write_files(tmp_path, {"a.png": b"12", "b.png": b"3", "notes.txt": b""})
    before = FileTree(tmp_path).listing()
    assert before.startswith("2 pictures, ")
    write_files(tmp_path, {"a.png": b"45", "more.txt": b""})
    assert FileTree(tmp_path).listing() == before
    write_files(tmp_path, {"a.png": b"4", "b.png": b"12"})
    assert FileTree(tmp_path).listing() != before
    (tmp_path / "a.png").rename(tmp_path / "c.png")
    assert FileTree(tmp_path).listing() != before


def test_few_kinds_of_other_files_are_named(tmp_path, capsys):
    names = [f"{i}.{kind}" for count, kind in enumerate("abcdef", 1) for i in range(count)]
    write_files(tmp_path, dict.fromkeys([*names, "1.png"], b""))
    FileTree(tmp_path).picture_names()
    said = "left out: 6 × .f, 5 × .e, 4 × .d, 3 × .c, 2 × .b, …"
    assert capsys.readouterr().err == f"{tmp_path}: {said}\n"
    write_files(tmp_path / "less", {"README": b"", "1.png": b""})
    FileTree(tmp_path / "less").picture_names()
    assert capsys.readouterr().err.endswith("left out: 1 × file without an ending\n")


def test_a_palette_picture_is_read_with_its_colors(tmp_path):
    Image.new("P", (4, 4), 1).save(tmp_path / "x.gif")
    image = Image.new("RGB", (4, 4), (9, 200, 31)).quantize(4)
    image.save(tmp_path / "x.png")
    assert (read_images(tmp_path)[0, :, 0, 0] == (9, 200, 31)).all()
