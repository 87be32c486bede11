"""Prepare datasets with the function and with the command `psld prepare`."""

import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from psld.config.settings import DIGEST, parse
from psld.data.preparation import check_prepared, notes_on_prepared, prepare_dataset
from psld.data.settings import DatasetSettings, PrepareSettings
from psld.data.store import ImageStore
from psld.utils.errors import UserError
from psld.utils.files import digest_of
from tests.commands import call, refused, succeeded
from tests.data.formats import celeba_files, encode, random_images, write_files


def dataset(source, **changes):
    values = {
        "name": "mine",
        "channels": 3,
        "image_size": 8,
        "num_classes": 0,
        "flip": True,
        "filter": "box",
    }
    return parse(DatasetSettings, values | changes | {"source": source}, "test")


def folder(root, **changes):
    return {"kind": "folder", "root": str(root), **changes}


@pytest.fixture
def pictures(tmp_path):
    """A folder of 40 pictures, 16×16, in two classes."""
    images = random_images(40, 16, 16, 3)
    names = [f"{'ab'[i % 2]}/{i:03d}.png" for i in range(40)]
    files = {name: encode(pixels) for name, pixels in zip(names, images, strict=True)}
    return write_files(tmp_path / "pictures", files)


def test_pixels_are_the_resized_pictures_with_the_test_images_last(pictures, tmp_path):
    settings = dataset(folder(pictures, test_fraction=0.25), num_classes=2)
    record = prepare_dataset(settings, tmp_path / "data" / "mine.h5")
    assert record["splits"] == {"train": 30, "test": 10}
    store, source = ImageStore.open(tmp_path / "data" / "mine.h5"), settings.source.open()
    for split in ("train", "test"):
        pairs = getattr(source, split)
        assert store.labels(split).tolist() == [label for _, label in pairs]
        shrunk = [read().resize((8, 8), Image.Resampling.BOX) for read, _ in pairs]
        expected = np.stack([np.asarray(image).transpose(2, 0, 1) for image in shrunk])
        np.testing.assert_array_equal(store.images(split), expected)
    written = json.loads((tmp_path / "data" / "mine.json").read_text())
    assert written == {DIGEST: digest_of(record), **record}
    assert record["digest"] == store.digest
    assert record["shape"] == [40, 3, 8, 8]
    assert record["class_names"] == ["a", "b"] == [*store.class_names]
    assert record["settings"] == settings.model_dump(mode="json")
    one = write_files(tmp_path / "one", {"1.png": encode(random_images(8, 8, 3))})
    with pytest.raises(UserError, match="no training images are left"):
        prepare_dataset(dataset(folder(one, test_fraction=0.9)), tmp_path / "one.h5")


def test_preparing_again_gives_the_same_bytes(pictures, tmp_path, monkeypatch):
    settings = dataset(folder(pictures))
    first = prepare_dataset(settings, tmp_path / "1.h5")
    # Blocks of three images on five threads must not change the order or the bytes.
    monkeypatch.setattr("psld.data.preparation.BLOCK_BYTES", 3 * 8 * 8 * 3)
    monkeypatch.setattr("psld.data.images.SLOW", 0)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(5))
    second = prepare_dataset(settings, tmp_path / "2.h5")
    assert first["digest"] == second["digest"]
    assert (tmp_path / "1.h5").read_bytes() == (tmp_path / "2.h5").read_bytes()


def test_a_dataset_of_other_settings_or_images_is_replaced_on_request(pictures, tmp_path):
    path = tmp_path / "mine.h5"
    prepare_dataset(dataset(folder(pictures)), path)
    before = path.read_bytes()
    with pytest.raises(UserError, match=r"mine\.h5: prepared with another dataset\.image_size"):
        prepare_dataset(dataset(folder(pictures), image_size=4), path)
    with pytest.raises(UserError, match=r"prepared with another dataset\.source; give another"):
        prepare_dataset(dataset(folder(pictures, test_fraction=0.5)), path)
    prepare_dataset(dataset(folder(pictures), flip=False), path)
    write_files(pictures, {"a/new.png": encode(random_images(16, 16, 3))})
    with pytest.raises(UserError, match=r"mine\.h5: holds other images; .* replace=true"):
        prepare_dataset(dataset(folder(pictures)), path)
    assert path.read_bytes() == before
    assert prepare_dataset(dataset(folder(pictures)), path, replace=True)["shape"][0] == 41
    prepare_dataset(dataset(folder(pictures), image_size=4), path, replace=True)
    path.unlink()
    prepare_dataset(dataset(folder(pictures)), path)


def test_a_preparation_depends_on_all_but_name_and_flips():
    """tests/parts/test_source.py tests the settings of the source."""
    settings = dataset(folder("x"))
    changes = {"channels": 1, "image_size": 4, "num_classes": 2, "filter": None}
    for key, value in (changes | {"name": "x", "flip": False}).items():
        changed = settings.model_copy(update={key: value}).preparation()
        assert (changed != settings.preparation()) == (key in changes)


def prepared(pictures, tmp_path):
    """Prepare a dataset of a grid; return its name and its settings."""
    source = dataset(folder(pictures), num_classes=2)
    settings = PrepareSettings(dataset=source, output=str(tmp_path / "mine.h5"))
    prepare_dataset(source, tmp_path / "mine.h5")
    assert list(notes_on_prepared("grid/mine", settings)) == []
    return "grid/mine", settings


def test_changed_names_and_sizes_of_pictures_are_reported(pictures, tmp_path):
    record = prepared(pictures, tmp_path)
    one = pictures / "a/000.png"
    one.touch()
    (pictures / "notes.txt").touch()
    assert list(notes_on_prepared(*record)) == []
    one.write_bytes(one.read_bytes() + b"0")
    [line] = notes_on_prepared(*record)
    assert re.search("changed since it was prepared .40 pictures, .*; now 40 pictures, ", line)
    one.unlink()
    [line] = notes_on_prepared(*record)
    assert "; now 39 pictures" in line
    assert "psld prepare dataset=grid/mine replace=true" in line
    shutil.rmtree(pictures)
    assert list(notes_on_prepared(*record)) == []


def test_a_damaged_digest_file_is_repaired(pictures, tmp_path):
    record, digest = prepared(pictures, tmp_path), tmp_path / "mine.digest"
    whole = digest.read_bytes()
    digest.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
    [line] = notes_on_prepared(*record)
    assert line == f"{digest}: not the digest of mine.h5; repaired"
    assert digest.read_bytes() == whole
    assert list(notes_on_prepared(*record)) == []


def test_notes_say_what_they_could_not_repair_and_which_settings_differ(pictures, tmp_path):
    name, settings = prepared(pictures, tmp_path)
    (pictures / "a/000.png").unlink()
    smaller = settings.dataset.model_copy(update={"image_size": 4})
    edited = settings.model_copy(update={"dataset": smaller})
    [line] = notes_on_prepared(name, edited)
    assert line.startswith(f"{tmp_path}/mine.h5: prepared with another dataset.image_size; to use")
    with pytest.raises(UserError, match=r"dataset\.image_size; to use these: psld"):
        check_prepared(name, edited)
    check_prepared(name, settings)
    (tmp_path / "mine.digest").write_text("another\n")
    whole = (tmp_path / "mine.h5").read_bytes()
    (tmp_path / "mine.h5").write_bytes(whole[:-50])
    line, _ = notes_on_prepared(name, settings)
    assert "mine.digest: not the digest of mine.h5 (" in line
    assert (tmp_path / "mine.digest").read_text() == "another\n"
    (tmp_path / "mine.h5").unlink()
    assert list(notes_on_prepared(name, settings)) == []
    check_prepared(name, edited)


def test_moved_pictures_are_the_same_source(pictures, tmp_path):
    name, settings = prepared(pictures, tmp_path)
    for root in ("same", "others"):
        shutil.copytree(pictures, tmp_path / root)
    shutil.copy(tmp_path / "others/b/001.png", tmp_path / "others/b/more.png")
    for root in ("absent", "same", "others"):
        moved = dataset(folder(tmp_path / root), num_classes=2)
        lines = list(notes_on_prepared(name, settings.model_copy(update={"dataset": moved})))
        assert len(lines) == (root == "others")
        assert all(
            "mine.h5: prepared with another dataset.source; to use" in line for line in lines
        )
    halved = dataset(folder(pictures, test_fraction=0.5), num_classes=2)
    [line] = notes_on_prepared(name, settings.model_copy(update={"dataset": halved}))
    assert "prepared with another dataset.source" in line


def test_pictures_next_to_the_folders_of_classes_are_counted(pictures, tmp_path, capsys):
    shutil.copy(pictures / "a/004.png", pictures / "stray.png")
    prepare_dataset(dataset(folder(pictures)), tmp_path / "x.h5")
    said = f"{pictures}: 1 of 41 pictures lie in no subfolder, so there are no classes"
    assert said in capsys.readouterr().err


def test_the_number_of_classes_must_match_the_source(pictures, tmp_path):
    with pytest.raises(
        UserError, match=r"num_classes is 3, but the source folder has 2 classes \(a, b\)"
    ):
        prepare_dataset(dataset(folder(pictures), num_classes=3), tmp_path / "x.h5")
    assert list(tmp_path.glob("*.h5")) == []


def test_a_class_cannot_be_named_cycle(pictures, tmp_path):
    (pictures / "a").rename(pictures / "cycle")
    with pytest.raises(UserError, match=r"a class is named cycle, which .* rename the class"):
        prepare_dataset(dataset(folder(pictures), num_classes=2), tmp_path / "x.h5")
    prepare_dataset(dataset(folder(pictures)), tmp_path / "x.h5")
    store = ImageStore.open(tmp_path / "x.h5")
    assert not store.labels("all").any(), "they are not used"
    assert (store.num_classes, store.class_names) == (0, ())


def test_broken_pictures_stop_the_preparation_with_one_error(pictures, tmp_path):
    prepare_dataset(dataset(folder(pictures)), tmp_path / "x.h5")
    before = (tmp_path / "x.h5").read_bytes(), (tmp_path / "x.json").read_bytes()
    for name in ("a/004.png", "b/001.png"):
        broken = pictures / name
        broken.write_bytes(broken.read_bytes()[:200])
    with pytest.raises(UserError) as error:
        prepare_dataset(dataset(folder(pictures)), tmp_path / "x.h5")
    two = r"\S+a/004\.png: broken picture \(.+\); \S+b/001\.png: broken picture \(.+\)"
    remedy = r"; remove or replace them: rm \S+a/004\.png \S+b/001\.png"
    assert re.fullmatch(two + remedy, str(error.value))
    assert before == ((tmp_path / "x.h5").read_bytes(), (tmp_path / "x.json").read_bytes())
    assert list(tmp_path.glob(".*")) == []


def test_celeba_at_64(tmp_path):
    write_files(tmp_path, celeba_files(3))
    source = {"kind": "celeba", "root": str(tmp_path)}
    squeezed = dataset(source, image_size=64, filter="bilinear")
    assert prepare_dataset(squeezed, tmp_path / "x.h5")["converted"] == {}
    image = Image.open(tmp_path / "img_align_celeba" / "000002.jpg")
    expected = image.resize((64, 64), Image.Resampling.BILINEAR)
    pixels = ImageStore.open(tmp_path / "x.h5").images("train")[1]
    np.testing.assert_array_equal(pixels, np.asarray(expected).transpose(2, 0, 1))


@pytest.mark.slow
def test_memory_does_not_grow_with_the_dataset(tmp_path):
    """The process reads 150 MB of pixels and may grow by a third of that."""
    write_files(tmp_path / "p", {f"{i}.png": encode(random_images(8, 8, 3)) for i in range(3000)})
    code = f"""if True:
        import os, resource
        from pathlib import Path
        from psld.data.preparation import prepare_dataset
        from psld.data.settings import DatasetSettings
        os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
        settings = DatasetSettings(
            name="x", channels=3, image_size=128, num_classes=0, flip=False, filter="box",
            source={{"kind": "folder", "root": {str(tmp_path / "p")!r}}},
        )
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        prepare_dataset(settings, Path({str(tmp_path / "x.h5")!r}))
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    """
    grown = int(subprocess.check_output([sys.executable, "-c", code], text=True))
    assert (tmp_path / "x.h5").stat().st_size > 147e6
    assert grown * 1024 < 50e6


# --- the command --------------------------------------------------------------------------------


def test_the_command_writes_three_files_and_prints_their_content(tmp_path):
    result = succeeded(call(tmp_path, "prepare"))
    assert result.stderr == ""
    assert result.stdout.endswith("\nclasses: 0 0, 1 1, 2 2, 3 3, 4 4, 5 5, 6 6, 7 7, 8 8, 9 9\n")
    assert "1,797 images of 1×8×8 (1,437 train, 360 test)" in result.stdout
    assert sorted(path.name for path in tmp_path.rglob("*")) == [
        "data",
        "digits.digest",
        "digits.h5",
        "digits.json",
    ]
    store = ImageStore.open(tmp_path / "data" / "digits.h5")
    assert store.digest == json.loads((tmp_path / "data" / "digits.json").read_text())["digest"]


def test_the_command_counts_conversions_and_ignored_classes(tmp_path):
    modes = {"tiny": "L", "cmyk": "CMYK", "clear": "RGBA", "plain": "RGB"}
    for number, (name, mode) in enumerate(modes.items()):
        path = tmp_path / "p" / f"{number % 2}" / f"{name}.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new(mode, (3000, 6) if name == "tiny" else (8, 8)).save(path)
    words = ["dataset=folder", "dataset.name=p", "dataset.image_size=8", "dataset.source.root=p"]
    *_, converted, classes = succeeded(call(tmp_path, "prepare", *words)).stdout.splitlines()
    assert sorted(converted.split("; ")) == [
        "1 × CMYK, made RGB",
        "1 × gray, made RGB",
        "1 × not square, cut to the central square",
        "1 × smaller than 8×8, enlarged",
        "1 × transparent, put on white",
    ]
    assert classes == "its 2 classes are not used; dataset.num_classes=2 uses them"


def test_pictures_in_both_splits_are_counted(tmp_path):
    once = {f"{i}.png": encode(random_images(8, 8, 3, seed=i)) for i in range(20)}
    write_files(tmp_path / "p", once | {f"again-{name}": each for name, each in once.items()})
    words = ["dataset=folder", "dataset.name=p", "dataset.image_size=8", "dataset.source.root=p"]
    words += ["dataset.source.test_fraction=0.5"]
    said = succeeded(call(tmp_path, "prepare", *words)).stdout
    store = ImageStore.open(tmp_path / "data" / "p.h5")
    train = {image.tobytes() for image in store.images("train")}
    copies = sum(image.tobytes() in train for image in store.images("test"))
    assert 0 < copies < 20
    assert f"\n{copies} × test image that is also a training image\n" in said


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("dataset.image_size=16", "dataset.filter"),
        ("dataset=celeba64", "img_align_celeba.zip"),
        ("dataset=folder", "dataset.name"),
    ],
)
def test_bad_input(tmp_path, word, said):
    refused(call(tmp_path, "prepare", word), 2, said)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
