"""Sources that are read into memory: digits, MNIST, Fashion-MNIST, CIFAR-10."""

import gzip
import pickle
import threading
from functools import partial
from hashlib import md5
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from psld.data.sources import CIFAR10, Digits, FashionMNIST
from psld.utils.errors import RunError, UserError
from tests.data.formats import (
    idx,
    idx_files,
    labels_of,
    pictures_of,
    random_images,
    write_cifar10,
    write_files,
)

TRAIN = random_images(6, 28, 28, seed=1), np.array([0, 9, 3, 3, 1, 2], dtype=np.uint8)
TEST = random_images(2, 28, 28, seed=2), np.array([5, 4], dtype=np.uint8)


def fashion(root, download=False, pad=None):
    return FashionMNIST(root=None if root is None else str(root), download=download, pad=pad)


def cifar(root, download=False):
    return CIFAR10(root=str(root), download=download)


def pixels_of(source):
    return np.stack([np.asarray(image) for image in pictures_of(source)])


# --- digits -------------------------------------------------------------------------------------


def test_digits_are_complete_and_split_evenly():
    source = Digits().open()
    assert (len(source.train), len(source.test)) == (1437, 360)
    labels = labels_of(source)
    share = np.bincount(labels[1437:]) / np.bincount(labels)
    assert share.min() > 0.19
    assert share.max() < 0.21
    pixels = pixels_of(source)
    assert (pixels.min(), pixels.max()) == (0, 255)
    levels = np.round(pixels / (255 / 16))
    ours = sorted(zip(labels, levels.astype(int).reshape(1797, 64).tolist(), strict=True))
    digits = load_digits()
    theirs = sorted(zip(digits.target, digits.data.astype(int).tolist(), strict=True))
    assert ours == theirs


# --- MNIST and Fashion-MNIST --------------------------------------------------------------------


@pytest.mark.parametrize("folder", ["", "FashionMNIST/raw"])
def test_fashion_mnist(tmp_path, folder):
    """The files may be gzipped, as published, or unpacked by torchvision."""
    files = idx_files(TRAIN, TEST)
    if folder:
        files = {name.removesuffix(".gz"): gzip.decompress(data) for name, data in files.items()}
    write_files(tmp_path / folder, files)
    source = fashion(tmp_path).open()
    assert (len(source.train), len(source.test)) == (6, 2)
    np.testing.assert_array_equal(pixels_of(source), np.concatenate([TRAIN[0], TEST[0]]))
    assert labels_of(source) == [0, 9, 3, 3, 1, 2, 5, 4]
    assert len(source.class_names) == 10


def test_padding_puts_zeros_around_the_image(tmp_path):
    source = fashion(write_files(tmp_path, idx_files(TRAIN, TEST)), pad=32).open()
    expected = np.pad(np.concatenate([TRAIN[0], TEST[0]]), ((0, 0), (2, 2), (2, 2)))
    np.testing.assert_array_equal(pixels_of(source), expected)


def test_the_debian_package_is_the_default_root(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("psld.data.sources.DEBIAN_FOLDER", tmp_path / "debian")
    with pytest.raises(UserError, match=r"^downloads/fashion-mnist: no train-images.*Debian"):
        fashion(None).open()
    write_files(tmp_path / "debian", idx_files(TRAIN, TEST))
    assert len(labels_of(fashion(None).open())) == 8


@pytest.mark.parametrize(
    ("name", "damaged", "complaint"),
    [
        ("t10k-images-idx3-ubyte.gz", b"<html>404", "not a valid IDX file"),
        ("train-images-idx3-ubyte.gz", gzip.compress(idx(TRAIN[1])), "in 3 dimensions"),
        ("train-images-idx3-ubyte.gz", gzip.compress(idx(TRAIN[0])[:-1]), "cannot reshape"),
        ("t10k-labels-idx1-ubyte.gz", gzip.compress(idx(TRAIN[1])), "6 labels, but 2"),
    ],
    ids=["no gzip", "labels as images", "cut short", "labels of the other split"],
)
def test_damaged_idx_files(tmp_path, name, damaged, complaint):
    write_files(tmp_path, idx_files(TRAIN, TEST) | {name: damaged})
    with pytest.raises(UserError, match=complaint) as caught:
        fashion(tmp_path).open()
    assert name in str(caught.value)


# --- CIFAR-10 -----------------------------------------------------------------------------------

PIXELS = [random_images(30, 3072, seed=i) for i in range(6)]
LABELS = [(np.arange(30) + i) % 10 for i in range(6)]
CLASSES = [f"class {i}" for i in range(10)]


@pytest.fixture
def cifar10(tmp_path, monkeypatch) -> Path:
    """A folder with a small archive; torchvision is patched to expect its checksums."""
    return write_cifar10(tmp_path / "cifar", PIXELS, LABELS, CLASSES, monkeypatch)


def test_cifar10(cifar10):
    """The dataset is read from the archive, and then from the unpacked folder, without network
    access."""
    for download in (True, False):
        source = cifar(cifar10, download).open()
        assert (len(source.train), len(source.test)) == (150, 30)
        planes = np.concatenate(PIXELS).reshape(-1, 3, 32, 32)
        np.testing.assert_array_equal(pixels_of(source), planes.transpose(0, 2, 3, 1))
        np.testing.assert_array_equal(labels_of(source), np.concatenate(LABELS))
        assert source.class_names == tuple(CLASSES)


class Trap:
    """An object that creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_a_foreign_pickle_is_refused_and_not_executed(cifar10):
    cifar(cifar10, download=True).open()
    trap = pickle.dumps(Trap(cifar10 / "ran"), protocol=2)
    (cifar10 / "cifar-10-batches-py/data_batch_3").write_bytes(trap)
    with pytest.raises(UserError, match=r"corrupted.*put cifar-10-python"):
        cifar(cifar10).open()
    assert not (cifar10 / "ran").exists()


def test_a_missing_or_truncated_archive_names_the_file_to_download(cifar10, tmp_path):
    path = cifar10 / "cifar-10-python.tar.gz"
    path.write_bytes(path.read_bytes()[:-100])
    for root, download in ((tmp_path / "empty", False), (cifar10, True)):
        with pytest.raises(
            RunError if download else UserError,
            match=r"put cifar-10-python\.tar\.gz .*kriz/cifar\.html into",
        ):
            cifar(root, download).open()


# --- downloads ----------------------------------------------------------------------------------


@pytest.fixture
def server(tmp_path):
    """An HTTP server of tmp_path/served; yields its address."""
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path / "served"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_download_with_checksums(tmp_path, server, monkeypatch):
    from torchvision.datasets import FashionMNIST

    files = idx_files(TRAIN, TEST)
    write_files(tmp_path / "served", files)
    monkeypatch.setattr(FashionMNIST, "mirrors", [server])
    checksums = [(name, md5(data).hexdigest()) for name, data in files.items()]
    monkeypatch.setattr(FashionMNIST, "resources", checksums)
    assert len(labels_of(fashion(tmp_path / "got", download=True).open())) == 8

    tampered = [(name, "0" * 32) for name, _ in checksums]
    monkeypatch.setattr(FashionMNIST, "resources", tampered)
    with pytest.raises(RunError, match=r"cannot be loaded .*put the four files"):
        fashion(tmp_path / "tampered", download=True).open()
    with pytest.raises(UserError, match="no train-images"):
        fashion(tmp_path / "tampered").open()
