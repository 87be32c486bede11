"""Sources of numbered images: arrays in .npy and .npz, and Hugging Face datasets."""

import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from psld.config.settings import parse
from psld.data import preparation, sources
from psld.data.preparation import prepare_dataset
from psld.data.settings import DatasetSettings
from psld.data.sources import Rows
from psld.data.store import ImageStore
from psld.utils.errors import UserError, as_psld_errors
from tests.commands import call, succeeded
from tests.data.formats import encode, random_images, write_shards
from tests.hub import empty_hub
from tests.workflow.project import REPOSITORY

DATASET = {"name": "mine", "channels": 3, "image_size": 8, "flip": False, "filter": None}
PIXELS = random_images(50, 8, 8, 3)
LABELS = np.arange(50) % 3


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def prepare(source, classes=0, **changes):
    content = DATASET | {"num_classes": classes, "source": source} | changes
    record = prepare_dataset(parse(DatasetSettings, content, "test"), Path("mine.h5"), replace=True)
    return record, ImageStore.open("mine.h5")


def test_an_array_becomes_a_dataset(monkeypatch):
    monkeypatch.setattr(preparation, "BLOCK_BYTES", 7 * 8 * 8 * 3)  # blocks of seven
    np.save("x.npy", PIXELS)
    np.save("fortran.npy", np.asfortranarray(PIXELS))
    np.savez("plain.npz", arr_0=PIXELS)
    np.savez("xy.npz", arr_0=PIXELS, labels=LABELS.astype(np.uint8))
    digests = set()
    for path in ("x.npy", "fortran.npy", "plain.npz", "xy.npz"):
        classes = 3 if path == "xy.npz" else 0
        record, store = prepare({"kind": "array", "test_fraction": 0.2, "path": path}, classes)
        assert (record["splits"], record["converted"]) == ({"train": 40, "test": 10}, {})
        assert record["class_names"] == ["0", "1", "2"][:classes]
        pixels = store.images("all").transpose(0, 2, 3, 1)
        places = [int(np.flatnonzero((each == PIXELS).all((1, 2, 3)))[0]) for each in pixels]
        assert places == [*sorted(places[:40]), *sorted(places[40:])]
        assert sorted(places) == list(range(50))
        labels = LABELS[places].tolist() if classes else [0] * 50
        assert store.labels("all").tolist() == labels
        digests.add(store.digest)
    assert len(digests) == 2, "with classes and without"


def test_arrays_that_are_left_out_are_named(capsys):
    np.savez("x.npz", PIXELS, LABELS, labels=LABELS)
    prepare({"kind": "array", "path": "x.npz"}, 3)
    assert "x.npz: left out: arr_1; classes are read from labels" in capsys.readouterr().err


def test_conversions_are_counted():
    gray = random_images(6, 8, 8)
    np.save("gray.npy", gray)
    record, store = prepare({"kind": "array", "path": "gray.npy"})
    assert record["converted"] == {"gray, made RGB": 6}
    assert (store.images("train") == gray[:, None]).all()
    np.save("twice.npy", np.concatenate([PIXELS, PIXELS]))
    source = {"kind": "array", "path": "twice.npy", "test_fraction": 0.3}
    assert "test image that is also a training image" in prepare(source)[0]["converted"]


def test_arrays_are_not_cropped():
    wide = random_images(6, 8, 12)
    np.save("wide.npy", wide)
    source = {"kind": "array", "path": "wide.npy"}
    right = re.escape("an array of 8×12 is not cropped; set dataset.image_size to [8, 12], or crop")
    with pytest.raises(UserError, match=right):
        prepare(source, channels=1)
    record, store = prepare(source, channels=1, image_size=[8, 12])
    assert record["settings"]["image_size"] == [8, 12]
    assert (store.images("train") == wide[:, None]).all()


def test_memory_does_not_grow_with_the_number_of_images(monkeypatch):
    """Arrays are read in blocks, without PIL images, and without hashes if no image is held out."""
    taken, read = [], Rows.pixels
    monkeypatch.setattr(sources, "hashlib", None)
    monkeypatch.setattr(Rows, "pixels", lambda *a: taken.append(a[1]) or read(*a))
    monkeypatch.setattr(preparation, "as_image", None)
    monkeypatch.setattr(preparation, "BLOCK_BYTES", 10 * 8 * 8 * 3)
    np.save("x.npy", PIXELS)
    prepare({"kind": "array", "path": "x.npy"})
    blocks = [len(each) for each in taken if len(each) > 1]  # The other images measure the time.
    assert blocks == [10] * 5


@pytest.mark.parametrize(
    ("images", "labels", "says"),
    [
        (PIXELS.transpose(0, 3, 1, 2) / 255, None, "train picture 0: float64, not uint8; for ten"),
        (
            PIXELS.astype(int),
            None,
            "x.npz: int64 of (50, 8, 8, 3); right is uint8 N×H×W or ",
        ),
        (PIXELS.transpose(0, 3, 1, 2), None, "x.npz: uint8 of (50, 3, 8, 8); right is "),
        (PIXELS, LABELS / 1, "x.npz: the labels are float64 of shape (50,); right is 50 integers "),
        (PIXELS, LABELS[1:], "the labels are int64 of shape (49,); right is 50 integers from 0"),
        (PIXELS, LABELS - 1, "the labels are int64 from -1 to 1 of shape (50,); right is 50 inte"),
        (PIXELS, LABELS + 48, "from 48 to 50 of shape (50,); right is 50 integers from 0, such as"),
    ],
)
def test_arrays_that_are_not_images_are_reported_in_one_line(images, labels, says, folder):
    np.savez("x.npz", arr_0=images, **({} if labels is None else {"labels": labels}))
    with pytest.raises(UserError, match=rf"^[^\n]*{re.escape(says)}[^\n]*$"):
        prepare({"kind": "array", "path": "x.npz"})
    assert not list(folder.glob("*.h5")), "nothing half written"


def test_files_that_are_not_arrays_are_reported_in_one_line(folder):
    np.save("x.npy", PIXELS)
    whole = (folder / "x.npy").read_bytes()
    (folder / "cut.npy").write_bytes(whole[:-1])
    np.savez("other.npz", x=PIXELS)
    shutil.copy("other.npz", "renamed.npy")
    for name, says in {
        "cut.npy": "cut.npy: not a valid .npy of numbers (",
        "renamed.npy": "renamed.npy: not a valid .npy of numbers (",
        "other.npz": "other.npz: no array arr_0 in it, but x; save the images as arr_0",
    }.items():
        with pytest.raises(UserError, match=r"^[^\n]*$") as found:
            prepare({"kind": "array", "path": name})
        assert says in str(found.value)


def test_the_tar_files_of_the_examples_become_a_dataset(folder):
    path = REPOSITORY / "docs/examples/tars.py"
    *_, code = path.read_text().split('"""\n', 1)
    assert len([line for line in code.splitlines() if line.strip()]) <= 20
    shutil.copy(path, folder)
    write_shards(folder / "shards")
    source = {"kind": "tars:Tars", "path": "shards"}
    record, store = prepare(source, classes=3, filter="box")
    assert (record["splits"], record["class_names"]) == ({"train": 12, "test": 0}, ["0", "1", "2"])
    assert store.labels("train").tolist() == [0, 1, 2] * 4


# --- datasets -----------------------------------------------------------------------------------


@pytest.fixture
def library(folder, monkeypatch):
    with empty_hub(
        folder
    ):  # huggingface_hub, which `datasets` imports, reads the address only once.
        library = pytest.importorskip("datasets")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", folder / "cache")
    return library


def rows_of(library):
    pictures = [Image.fromarray(each) for each in PIXELS[:8]]
    names = library.ClassLabel(names=["cat", "dog", "emu"])
    types = library.Features({"img": library.Image(), "label": names})
    return library.Dataset.from_dict({"img": pictures, "label": LABELS[:8]}, types)


def test_each_form_of_a_dataset_of_hugging_face(library, folder):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rows = rows_of(library)
    rows.with_format("numpy").save_to_disk("one")
    library.DatasetDict(train=rows, test=rows.select([0]), more=rows).save_to_disk("split")
    (folder / "hub/data").mkdir(parents=True)
    rows.to_parquet("hub/data/train-00000-of-00001.parquet")
    rows.select([0]).to_parquet("hub/data/test-00000-of-00001.parquet")
    rows.to_parquet("x.parquet")
    bare = {"img": [encode(each) for each in PIXELS[:8]], "label": LABELS[:8]}
    pq.write_table(pa.table(bare), "bare.parquet")
    for path, tests in {"one": 0, "split": 1, "hub": 1, "x.parquet": 0, "bare.parquet": 0}.items():
        source = {"kind": "datasets", "path": path, "image": "img"}
        record, store = prepare(source, classes=3)
        assert record["splits"] == {"train": 8, "test": tests}, path
        assert (store.images("train") == PIXELS[:8].transpose(0, 3, 1, 2)).all()
        assert store.labels("all").tolist() == [*LABELS[:8].tolist(), *([0] * tests)]
        bare = path == "bare.parquet"
        assert record["class_names"] == (["0", "1", "2"] if bare else ["cat", "dog", "emu"])
    source = {"kind": "datasets", "path": "one", "image": "img", "test_fraction": 0.25}
    assert prepare(source)[0]["splits"] == {"train": 6, "test": 2}


def test_wrong_datasets_are_reported_in_one_line(library, folder):
    rows = rows_of(library).add_column("name", list("abcdefgh")).add_column("size", [1.5] * 8)
    rows.to_parquet("x.parquet")
    library.DatasetDict(train=rows, test=rows).save_to_disk("split")
    library.DatasetDict(a=rows, b=rows).save_to_disk("odd")
    (folder / "empty").mkdir()
    (folder / "cut.parquet").write_bytes((folder / "x.parquet").read_bytes()[:99])
    own = {"path": "x.parquet", "image": "img"}
    no_column = "x.parquet: no column image of pictures, but img, label, name, size; right is data"
    for source, says in (
        ({"path": "x.parquet"}, f"{no_column}set.source.image=NAME, or data.cast_column("),
        (own | {"image": "size"}, "dataset.source: datasets: open: "),
        (
            own | {"label": "name"},
            "x.parquet: the labels are <U1 of shape (8,); right is 8 integers",
        ),
        (own | {"label": "size"}, "x.parquet: the labels are float64 of shape (8,); right is 8"),
        (own | {"path": "split", "test_fraction": 0.1}, "split: its splits are train, test; train"),
        ({"path": "odd"}, "odd: its splits are a, b; train is needed"),
        ({"path": "empty"}, "empty: neither a folder of save_to_disk nor whole parquet files ("),
        ({"path": "cut.parquet"}, "cut.parquet: neither a folder of save_to_disk nor whole parq"),
    ):
        with pytest.raises(UserError, match=r"^[^\n]*$") as found:
            prepare({"kind": "datasets", **source})
        assert says in str(found.value)


def test_broken_pictures_of_a_dataset_are_listed(library):
    pictures = [{"bytes": encode(each), "path": None} for each in PIXELS[:3]]
    pictures[1] = None
    pictures[2]["bytes"] = pictures[2]["bytes"][:60]
    types = library.Features({"image": library.Image()})
    library.Dataset.from_dict({"image": pictures}, types).save_to_disk("broken")
    with pytest.raises(UserError, match=r"^broken: picture 1: no picture; broken: picture 2: b"):
        prepare({"kind": "datasets", "path": "broken"})


def test_a_missing_datasets_library_is_reported(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    (folder / "x").mkdir()
    said = r"not installed; pip install 'psld\[datasets\]'"
    with pytest.raises(UserError, match=said), as_psld_errors():
        prepare({"kind": "datasets", "path": "x"})


def test_the_command_accepts_an_array(folder):
    np.save("x.npy", PIXELS)
    words = ("dataset=folder", "dataset.name=mine", "dataset.image_size=8")
    own = ("dataset.source=array", "dataset.source.path=x.npy", "dataset.source.test_fraction=0.2")
    said = succeeded(call(folder, "prepare", *words, *own)).stdout
    assert "50 images of 3×8×8 (40 train, 10 test)" in said
