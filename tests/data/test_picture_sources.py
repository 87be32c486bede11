"""Sources of picture files, in folders and in zip archives: CelebA, AFHQv2, any folder."""

import os
import zipfile

import pytest

from psld.data.images import FileTree
from psld.data.sources import Folder
from psld.paper.parts import AFHQv2, CelebA
from psld.utils.errors import UserError
from tests.data.formats import (
    afhq_files,
    celeba_files,
    encode,
    labels_of,
    pictures_of,
    random_images,
    write_files,
    write_zip,
)


def celeba(root):
    return CelebA(root=str(root))


def afhqv2(root):
    return AFHQv2(root=str(root))


def folder(root, **changes):
    return Folder(root=str(root), **changes)


def pngs(*names, size=(4, 4)):
    images = random_images(len(names), *size, 3)
    return {name: encode(pixels) for name, pixels in zip(names, images, strict=True)}


# --- CelebA -------------------------------------------------------------------------------------


def test_all_images_of_celeba_are_training_images(tmp_path):
    """The archive takes precedence over the unpacked folder."""
    write_files(tmp_path, celeba_files(2))
    source = celeba(tmp_path).open()
    assert (len(source.train), len(source.test)) == (2, 0)
    write_zip(tmp_path / "img_align_celeba.zip", celeba_files(5))
    source = celeba(tmp_path).open()
    assert (len(source.train), len(source.test)) == (5, 0)
    assert source.class_names == ()
    assert not any(labels_of(source))
    assert pictures_of(source)[0].size == (178, 218)


def test_a_damaged_file_in_a_zip_is_a_broken_picture(tmp_path):
    path = write_zip(tmp_path / "img_align_celeba.zip", celeba_files(2))
    data = bytearray(path.read_bytes())
    start = data.index(b"000001.jpg") + 200
    data[start : start + 50] = bytes(50)
    path.write_bytes(data)
    source = celeba(tmp_path).open()
    source.train[1][0]()
    with pytest.raises(UserError, match=r"img_align_celeba/000001\.jpg: "):
        source.train[0][0]()


# --- AFHQv2 -------------------------------------------------------------------------------------


@pytest.mark.parametrize("packed", [True, False], ids=["zip with a folder", "folder"])
def test_afhqv2(tmp_path, packed):
    files = afhq_files(train=2, test=1, size=16)
    if packed:
        inside = {f"afhq_v2/{name}": data for name, data in files.items()}
        write_zip(tmp_path / "afhq_v2.zip", inside)
    else:
        write_files(tmp_path, files)
    source = afhqv2(tmp_path).open()
    assert (len(source.train), len(source.test)) == (6, 3)
    assert source.class_names == ("dog", "cat", "wild")
    assert labels_of(source) == [0, 0, 1, 1, 2, 2, 0, 1, 2]
    colour = {0: (0, 200, 0), 1: (200, 0, 0), 2: (0, 0, 200)}
    for image, label in zip(pictures_of(source), labels_of(source), strict=True):
        assert image.size == (16, 16)
        assert image.getpixel((0, 0)) == colour[label]


# --- any folder ---------------------------------------------------------------------------------


@pytest.mark.parametrize("packed", [True, False], ids=["zip", "folder"])
def test_a_folder_without_classes(tmp_path, packed):
    files = pngs("b.png", "a.PNG", "sub/c.png", size=(4, 6)) | {
        "notes.txt": b"x",
        ".hidden.png": b"x",
        "__MACOSX/a.png": b"x",
    }
    root = tmp_path / "faces.zip" if packed else tmp_path / "faces"
    (write_zip if packed else write_files)(root, files)
    source = folder(root).open()
    assert (len(source.train), len(source.test)) == (3, 0)
    assert source.class_names == ()
    assert [image.size for image in pictures_of(source)] == [(6, 4)] * 3


def test_a_member_of_a_zip_without_a_name_is_left_out(tmp_path):
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for name, data in pngs("a.png", "b.png", "c.png").items():
            member = zipfile.ZipInfo(name)
            archive.writestr(member, data)
        member.filename = ""
    assert len(folder(tmp_path / "all.zip").open().train) == 2


def test_a_folder_around_the_classes_is_left_out(tmp_path):
    """Most tools add such a folder to an archive."""
    names = ("imgs/tulip/1.png", "imgs/rose/x/2.png", "imgs/rose/1.png")
    write_zip(tmp_path / "all.zip", pngs(*names))
    settings = folder(tmp_path / "all.zip", test_fraction=0.34)
    source = settings.open()
    assert source.class_names == ("rose", "tulip")
    assert (len(source.train), len(source.test)) == (2, 1)
    assert sorted(labels_of(source)) == [0, 0, 1]


def test_links_are_followed_unless_they_lead_back(tmp_path):
    """Two links to a parent folder would double the pictures at each level, without end."""
    write_files(tmp_path, pngs("x/1.png", "y/2.png"))
    for link, to in (
        ("x/up", ".."),
        ("a", "."),
        ("b", "."),
        ("x/to_y", "../y"),
        ("y/to_x", "../x"),
    ):
        (tmp_path / link).symlink_to(to)
    names = ["x/1.png", "x/to_y/2.png", "y/2.png", "y/to_x/1.png"]
    assert FileTree(tmp_path).picture_names() == names


def test_only_regular_files_are_read_and_the_others_are_counted(tmp_path, capsys):
    write_files(tmp_path, pngs("1.png", "2.gif", "3.GIF", "sub/4.txt", ".git/5.gif"))
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "device.png").symlink_to("/dev/zero")
    (tmp_path / "itself.png").symlink_to("itself.png")
    assert len(folder(tmp_path).open().train) == 1
    counts = "2 × pipe, socket or device, 2 × .gif, 1 × .txt, 1 × link to nothing"
    assert sorted(capsys.readouterr().err.strip().split(": ")[-1]) == sorted(counts)
    with pytest.raises(UserError, match=r"pipe\.png: a pipe or a device"):
        folder(tmp_path / "pipe.png").open()


def test_names_that_are_not_utf_8(tmp_path):
    """Archives of old systems contain such names."""
    kind, file = os.fsdecode(b"\xe4pfel"), os.fsdecode(b"\xe4.png")
    write_files(tmp_path, pngs(f"{kind}/{file}", "birnen/b.png", f"birnen/{file}"))
    source = folder(tmp_path, test_fraction=0.34).open()
    assert source.class_names == ("birnen", "\ufffdpfel")
    assert (len(source.train), len(source.test)) == (2, 1)


def split_of(root, fraction):
    source = folder(root, test_fraction=fraction).open()
    images = [image.tobytes() for image in pictures_of(source)]
    return set(images[: len(source.train)]), set(images[len(source.train) :])


def test_test_fraction(tmp_path):
    names = [f"{i:03d}.png" for i in range(50)]
    write_files(tmp_path, pngs(*names))
    train, test = split_of(tmp_path, 0.2)
    assert (len(train), len(test)) == (40, 10)
    assert not train & test
    # When pictures are added, most old pictures stay in their split.
    write_files(tmp_path, {f"new{name}": data for name, data in pngs("a.png", "b.png").items()})
    _, later = split_of(tmp_path, 0.2)
    assert len(test & later) >= 8


def test_pictures_of_every_class_are_held_out(tmp_path):
    """The choice is by hash, because the first or last names would all belong to one class."""
    names = [f"{kind}/{i:02d}.png" for kind in ("cat", "dog") for i in range(50)]
    write_files(tmp_path, pngs(*names))
    source = folder(tmp_path, test_fraction=0.196).open()
    tested = [label for _, label in source.test]
    assert len(tested) == 20
    assert 4 < sum(tested) < 16
    assert tested == sorted(tested), "in the order of the names"
    tree = FileTree(tmp_path)
    kinds = {tree.picture(name).tobytes(): name[:3] for name in names}
    found = [kinds[image.tobytes()] for image in pictures_of(source)]
    assert [source.class_names[label] for label in labels_of(source)] == found
    write_files(tmp_path, pngs("alone.png"))
    assert not any(labels_of(folder(tmp_path).open())), "one picture lies in no class"


def test_of_two_archive_members_with_the_same_name_the_later_is_read(tmp_path):
    files = pngs("0.png")
    root = write_zip(tmp_path / "faces.zip", {"0.png": b"older"})
    with zipfile.ZipFile(root, "a") as packed, pytest.warns(UserWarning, match="Duplicate"):
        packed.writestr("0.png", files["0.png"])
    tree = FileTree(root)
    assert list(tree.sizes) == ["0.png"]
    assert tree.read("0.png") == files["0.png"]


# --- missing files ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "place", "said"),
    [
        (celeba, "", r"img_align_celeba\.zip of the CelebA project page"),
        (afhqv2, "", r"afhq_v2\.zip.*clovaai/stargan-v2"),
        (afhqv2, "cats", "no pictures in test/dog"),
        (folder, "nothing", r"nothing: neither .* \(\[Errno 2\] No such file"),
        (folder, "", r"contains no pictures; pictures end in \.bmp"),
        (folder, "cats/a.png", r"a\.png: neither a folder nor a whole zip or tar archive"),
    ],
)
def test_errors_for_missing_files_name_what_to_download(tmp_path, source, place, said):
    if place.startswith("cats"):
        names = ("a.png", "train/cat/1.png", "train/dog/1.png", "train/wild/1.png")
        write_files(tmp_path / "cats", pngs(*names))
    with pytest.raises(UserError, match=said):
        source(tmp_path / place).open()
