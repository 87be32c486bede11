"""Datasets of tensors: sources, shapes, units, refusals, and latents encoded from pictures."""

import io
import re
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

import psld
from psld.config.settings import parse
from psld.data import preparation
from psld.data.preparation import prepare_dataset
from psld.data.settings import Autoencoder, DatasetSettings
from psld.data.store import ImageStore, described_dataset
from psld.data.units import BYTES, Units
from psld.utils.errors import UserError
from tests.commands import call, fresh_modules, refused, succeeded
from tests.data.formats import random_images


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with fresh_modules():
        yield tmp_path


def tensors(*shape: int, dtype: str = "f4") -> np.ndarray:
    return (3 + 2 * np.random.default_rng(0).standard_normal(shape)).astype(dtype)


def prepare(source, channels, size, **changes):
    content = {"name": "mine", "dtype": "float32", "channels": channels, "image_size": size}
    content |= {"num_classes": 0, "flip": False, "filter": None, "source": source} | changes
    settings = parse(DatasetSettings, content, "test")
    record = prepare_dataset(settings, Path("mine.h5"), replace=True)
    return record, ImageStore.open_for("mine.h5", settings)


@pytest.mark.parametrize(
    ("dtype", "shape"),
    [("f2", (2, 8, 16)), ("f4", (4, 8, 8)), ("f8", (7, 5, 3)), (">f4", (1, 4, 4))],
)
def test_arrays_of_floats_keep_their_values(dtype, shape, monkeypatch):
    monkeypatch.setattr(preparation, "BLOCK_BYTES", 4 * 7 * np.prod(shape))  # blocks of seven
    values = tensors(30, *shape, dtype=dtype)
    np.save("x.npy", values)
    np.save("fortran.npy", np.asfortranarray(values))
    np.savez("x.npz", arr_0=values)
    size = shape[1] if shape[1] == shape[2] else shape[1:]
    for path in ("x.npy", "fortran.npy", "x.npz"):
        source = {"kind": "array", "path": path, "test_fraction": 0.2}
        record, store = prepare(source, shape[0], size)
        assert record["splits"] == {"train": 24, "test": 6}
        assert store.shape == shape
        assert store.images("all").dtype == np.float32
        expected = {each.tobytes() for each in values.astype("f4")}
        assert {each.tobytes() for each in store.images("all")} == expected
        train = store.images("train").astype("f8")
        np.testing.assert_allclose(store.units.mean, train.mean((0, 2, 3)), rtol=1e-12)
        np.testing.assert_allclose(store.units.std, train.std((0, 2, 3)), rtol=1e-12)
        assert described_dataset(Path("mine.h5"))["dtype"] == "float32"


def test_arrays_without_a_channel_have_one():
    np.save("x.npy", tensors(10, 4, 6))
    assert prepare({"kind": "array", "path": "x.npy"}, 1, [4, 6])[1].shape == (1, 4, 6)


def test_folders_and_tar_archives_of_npy_have_classes_and_a_test_split():
    values = tensors(12, 3, 4, 4, dtype="f8")
    for i, value in enumerate(values):
        Path(f"files/{'ab'[i % 2]}").mkdir(parents=True, exist_ok=True)
        np.save(f"files/{'ab'[i % 2]}/{i:02d}.npy", value)
    with tarfile.open("files.tar", "w") as archive:
        archive.add("files", ".")
    for root in ("files", "files.tar"):
        source = {"kind": "folder", "root": root, "test_fraction": 0.25}
        record, store = prepare(source, 3, 4, num_classes=2)
        assert record["splits"] == {"train": 9, "test": 3}
        assert record["class_names"] == ["a", "b"]
        where = {value.astype("f4").tobytes(): i for i, value in enumerate(values)}
        found = [where[each.tobytes()] for each in store.images("all")]
        assert sorted(found) == list(range(12))
        assert store.labels("all").tolist() == [i % 2 for i in found]
    with tarfile.open("files.tar.gz", "w:gz") as archive:
        archive.add("files", ".")
    with pytest.raises(UserError, match=r"tar\.gz: no whole tar archive without compression"):
        prepare({"kind": "folder", "root": "files.tar.gz"}, 3, 4)


def test_a_damaged_npy_in_a_tar_archive_is_named():
    with tarfile.open("x.tar", "w") as archive:
        for name, data in (("a.npy", b"\x93NUMPY"), ("b.npy", b"no")):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    with pytest.raises(UserError, match=r"x\.tar/a\.npy: not a valid \.npy of numbers"):
        prepare({"kind": "folder", "root": "x.tar"}, 1, 4)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, 1e300])
def test_a_value_that_is_not_finite_is_refused_with_its_index(wrong):
    values = tensors(300, 2, 4, 4, dtype="f8")
    values[177, 1, 2, 3] = wrong
    np.save("x.npy", values)
    for source in ({}, {"test_fraction": 0.9}):
        with pytest.raises(UserError, match=r"(train|test) tensor 177: has NaN or infinite values"):
            prepare({"kind": "array", "path": "x.npy"} | source, 2, 4)
    assert not Path("mine.h5").exists()


def test_wrong_shapes_and_types_are_refused_with_what_is_right():
    np.save("x.npy", tensors(10, 2, 8, 16))
    np.save("bytes.npy", random_images(10, 8, 8))
    for path, channels, size, said in (
        ("x.npy", 2, 8, "tensor 0: float32 (2, 8, 16); dataset has floats of (2, 8, 8); set data"),
        ("x.npy", 4, [8, 16], "dataset has floats of (4, 8, 16)"),
        ("bytes.npy", 1, 8, "tensor 0: uint8 (8, 8, 1); dataset has floats of (1, 8, 8)"),
    ):
        with pytest.raises(UserError, match=re.escape(said)):
            prepare({"kind": "array", "path": path}, channels, size)
    array = {"kind": "array", "path": "x.npy"}
    for source, changes, said in (
        (array, {"dtype": "uint8"}, "channels: pictures have 1 or 3, not 4; for tensors, set dtyp"),
        ({"kind": "prepared", "dataset": "x"}, {}, "decode: missing; its encode makes the tensors"),
    ):
        with pytest.raises(UserError, match=said):
            prepare(source, 4, 8, **changes)


def test_a_constant_channel_is_not_scaled():
    values = tensors(20, 2, 4, 4)
    values[:, 1] = 7
    np.save("x.npy", values)
    units = prepare({"kind": "array", "path": "x.npy"}, 2, 4)[1].units
    assert (units.mean[1], units.std[1]) == (7, 1)


def test_units_standardize_and_invert():
    units = Units(mean=(3.0, -100.0), std=(2.0, 0.1))
    x = units.seen(torch.tensor([5.0, -99.9])[None, :, None, None])
    torch.testing.assert_close(x.flatten(), torch.ones(2), rtol=0, atol=1e-4)
    torch.testing.assert_close(units.stored(x).flatten(), torch.tensor([5.0, -99.9]))
    pictures = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    assert (BYTES.seen(pictures).min(), BYTES.seen(pictures).max()) == (-1, 1)
    assert BYTES.stored(BYTES.seen(pictures)).dtype == torch.uint8


HALVING = '''
from pathlib import Path

import torch

from psld.parts import Autoencoder, WeightsFile


class Halving(Autoencoder):
    """Averages 2×2 pixels, in units of the factor in the file of weights."""

    weights: WeightsFile

    def build(self, device):
        return Coder(float(Path(self.weights).read_text()))


class Coder:
    fails_after = 10**9
    calls = 0

    def __init__(self, factor):
        self.factor = factor

    def encode(self, pictures):
        Coder.calls += 1
        if Coder.calls > Coder.fails_after:
            raise RuntimeError("killed")
        return torch.nn.functional.avg_pool2d(pictures.float(), 2) * self.factor

    def decode(self, values):
        pixels = (values / self.factor).round().clamp(0, 255).byte()
        return pixels.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
'''
LATENTS = {"source": {"kind": "prepared", "dataset": "pictures"}}
DECODE = {"kind": "halving:Halving", "weights": "factor.txt"}


@pytest.fixture
def pictures(folder) -> ImageStore:
    """A folder with data/pictures.h5, and an autoencoder with its weights."""
    Path("halving.py").write_text(HALVING)
    Path("factor.txt").write_text("0.5")
    np.savez("x.npz", arr_0=random_images(600, 8, 8), labels=np.arange(600) % 2)
    source = {"kind": "array", "path": "x.npz", "test_fraction": 0.1}
    content = {"name": "pictures", "channels": 1, "image_size": 8, "num_classes": 2}
    content |= {"flip": False, "filter": None, "source": source}
    Path("data").mkdir()
    prepare_dataset(parse(DatasetSettings, content, "test"), Path("data/pictures.h5"))
    return ImageStore.open("data/pictures.h5")


def test_pictures_are_encoded_with_their_splits_and_classes(pictures):
    record, store = prepare(LATENTS["source"], 1, 4, decode=DECODE, num_classes=2)
    assert store.splits == pictures.splits
    assert (store.labels("all") == pictures.labels("all")).all()
    averaged = pictures.images("all").reshape(600, 1, 4, 2, 4, 2).mean((3, 5)) / 2
    np.testing.assert_allclose(store.images("all"), averaged, rtol=1e-6)
    assert record["seen"] == pictures.digest


def test_an_interrupted_encoding_continues(pictures, monkeypatch):
    monkeypatch.setattr(preparation, "BLOCK_BYTES", 4 * 16 * 50)  # blocks of fifty
    parse(Autoencoder, DECODE, "test")
    halving = sys.modules["halving"]
    monkeypatch.setattr(halving.Coder, "fails_after", 5)
    with pytest.raises(RuntimeError, match="killed"):
        prepare(LATENTS["source"], 1, 4, decode=DECODE)
    [left] = Path().glob("mine.h5.encoded-*")
    assert len([*left.iterdir()]) == 5
    monkeypatch.setattr(halving.Coder, "fails_after", 10**9)
    monkeypatch.setattr(halving.Coder, "calls", 0)
    _, store = prepare(LATENTS["source"], 1, 4, decode=DECODE)
    assert halving.Coder.calls == 540 // 50 + 1 + 2 - 5, "ten and a part of train, two of test"
    assert not [*Path().glob("mine.h5.encoded-*")]
    digest = store.digest
    assert prepare(LATENTS["source"], 1, 4, decode=DECODE)[1].digest == digest


def test_other_weights_make_another_dataset(pictures):
    content = {"name": "mine", "dtype": "float32", "channels": 1, "image_size": 4}
    content |= {"num_classes": 0, "flip": False, "filter": None, "decode": DECODE} | LATENTS
    before = parse(DatasetSettings, content, "test").preparation()
    Path("moved.txt").write_text("0.5")
    moved = parse(DatasetSettings, content | {"decode": DECODE | {"weights": "moved.txt"}}, "test")
    assert moved.preparation() == before, "the path does not count"
    Path("factor.txt").write_text("0.25")
    assert parse(DatasetSettings, content, "test").preparation() != before


def test_weights_that_change_after_they_were_chosen_are_refused(pictures):
    settings = DatasetSettings(
        name="mine", dtype="float32", channels=1, image_size=4, num_classes=0, flip=False,
        filter=None, decode=DECODE, **LATENTS,
    )  # fmt: skip
    Path("factor.txt").write_text("0.25")
    with pytest.raises(UserError, match=r"factor\.txt: has changed since it was chosen"):
        prepare_dataset(settings, Path("mine.h5"))
    with pytest.raises(UserError, match=r"nowhere\.txt: No such file"):
        prepare(LATENTS["source"], 1, 4, decode=DECODE | {"weights": "nowhere.txt"})


def test_a_reference_of_decoded_tensors_is_bound_to_its_decoder(pictures):
    """Latents that were not computed here are decoded; a reference made with other weights is
    refused."""
    np.save("x.npy", tensors(40, 1, 4, 4) * 10 + 60)
    source = ("dataset.source.path=x.npy", "dataset.image_size=4", "dataset.channels=1")
    decode = ("+dataset.decode.kind=halving:Halving", "+dataset.decode.weights=factor.txt")
    words = ("dataset=tensors", "dataset.name=mine", *source, *decode)
    succeeded(call(Path(), "prepare", *words))
    succeeded(call(Path(), "reference", "data=data/mine.h5", "metric=fd-pixels", "extractor=null"))
    np.savez("y.npz", arr_0=tensors(40, 1, 4, 4) * 10 + 60)
    given = ("images=y.npz", "dataset=mine", "metric=fd-pixels")
    assert "fd-pixels of 40 images: " in succeeded(call(Path(), "evaluate", *given)).stdout
    Path("factor.txt").write_text("0.25")
    refused(call(Path(), "evaluate", *given), 2, "factor.txt: has changed since it was chosen")
    succeeded(call(Path(), "prepare", *words, "replace=true"))
    refused(call(Path(), "evaluate", *given), 2, "made with another dataset.decode")


def test_floats_are_not_compared_with_bytes():
    images = torch.from_numpy(random_images(20, 1, 4, 4))
    seen = BYTES.seen(images)

    def flat(x):
        return x.float().flatten(1)

    flat.digest = lambda: "flat"
    for given in ((seen, images), (images, seen)):
        with pytest.raises(UserError, match="unlike the images; give both alike"):
            psld.distance(*given, flat)
        with pytest.raises(UserError, match="unlike the images; give both alike"):
            psld.evaluate(*given, "fd-pixels", extractor=flat)
    assert psld.distance(seen, seen, flat) == pytest.approx(0, abs=1e-6)


def test_tensors_of_one_open_file_are_read_by_one_thread_at_a_time(monkeypatch):
    """A source may seek in a file, because its pictures are read by one thread at a time."""
    monkeypatch.setattr(preparation, "BLOCK_BYTES", 4 * 16)  # blocks of one
    monkeypatch.setattr("psld.data.images.SLOW", 0)  # several threads
    np.save("x.npy", tensors(2000, 1, 4, 4))
    Path("oneatatime.py").write_text(ONE_FILE)
    store = prepare({"kind": "oneatatime:Raw"}, 1, 4)[1]
    np.testing.assert_array_equal(store.images("train"), np.load("x.npy"))


ONE_FILE = """
import time

import numpy as np

from psld.parts import Images, Source


class Pairs:
    def __init__(self):
        self.array, self.row = np.load("x.npy"), 0

    def __len__(self):
        return len(self.array)

    def __getitem__(self, number):
        self.row = number
        time.sleep(0)
        return self.array[self.row].copy(), 0


class Raw(Source):
    def open(self):
        return Images(Pairs())
"""
