"""Sources that fit in memory: digits, MNIST, Fashion-MNIST, CIFAR-10."""

import gzip
import pickle
import socketserver
import threading
import warnings
from functools import partial
from hashlib import md5
from http.server import SimpleHTTPRequestHandler

import numpy as np
import pytest
from sklearn.datasets import load_digits

from psld.data import arrays
from psld.data.preparation import open_source
from psld.data.settings import CIFAR10Source, DigitsSource, FashionMNISTSource, MNISTSource
from psld.utils.errors import RunError, UserError
from tests.data.formats import (
    cifar_binary_batch,
    cifar_pickled_batch,
    idx,
    idx_files,
    labels_of,
    pictures_of,
    random_images,
    write_files,
    write_tar,
)

TRAIN = random_images(6, 28, 28, seed=1), np.array([0, 9, 3, 3, 1, 2], dtype=np.uint8)
TEST = random_images(2, 28, 28, seed=2), np.array([5, 4], dtype=np.uint8)


def fashion(root, download=False, pad=None):
    return FashionMNISTSource(
        kind="fashion-mnist", root=None if root is None else str(root), download=download, pad=pad
    )


def cifar(root, download=False):
    return CIFAR10Source(kind="cifar10", root=str(root), download=download)


def pixels_of(source):
    return np.stack([np.asarray(image) for image in pictures_of(source)])


# --- digits -------------------------------------------------------------------------------------


def test_digits_are_all_there_once_and_split_evenly():
    source = open_source(DigitsSource(kind="digits"))
    assert (len(source.train), len(source.test)) == (1437, 360)
    labels = labels_of(source)
    share = np.bincount(labels[1437:]) / np.bincount(labels)
    assert share.min() > 0.19
    assert share.max() < 0.21
    levels = np.round(pixels_of(source) / (255 / 16))
    ours = sorted(zip(labels, levels.astype(int).reshape(1797, 64).tolist(), strict=True))
    digits = load_digits()
    theirs = sorted(zip(digits.target, digits.data.astype(int).tolist(), strict=True))
    assert ours == theirs


def test_digits_use_the_full_range():
    pixels = pixels_of(open_source(DigitsSource(kind="digits")))
    assert (pixels.min(), pixels.max()) == (0, 255)


# --- MNIST and Fashion-MNIST --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("folder", "gzipped"), [("", True), ("", False), ("FashionMNIST/raw", False)]
)
def test_fashion_mnist(tmp_path, folder, gzipped):
    files = idx_files(TRAIN, TEST)
    if not gzipped:
        files = {name.removesuffix(".gz"): gzip.decompress(data) for name, data in files.items()}
    write_files(tmp_path / folder, files)
    source = open_source(fashion(tmp_path))
    assert (len(source.train), len(source.test)) == (6, 2)
    np.testing.assert_array_equal(pixels_of(source), np.concatenate([TRAIN[0], TEST[0]]))
    assert labels_of(source) == [0, 9, 3, 3, 1, 2, 5, 4]
    assert (len(source.class_names), len(source.checksums)) == (10, 4)


def test_padding_puts_zeros_around_the_image(tmp_path):
    source = open_source(fashion(write_files(tmp_path, idx_files(TRAIN, TEST)), pad=32))
    expected = np.pad(np.concatenate([TRAIN[0], TEST[0]]), ((0, 0), (2, 2), (2, 2)))
    np.testing.assert_array_equal(pixels_of(source), expected)


def test_mnist(tmp_path):
    write_files(tmp_path, idx_files(TRAIN, TEST))
    source = open_source(MNISTSource(kind="mnist", root=str(tmp_path), download=False))
    np.testing.assert_array_equal(pixels_of(source)[:6], TRAIN[0])


def test_debians_package_is_found_where_no_root_is_given(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(arrays, "DEBIAN_FOLDER", tmp_path / "debian")
    with pytest.raises(UserError, match=r"^downloads/fashion-mnist: no train-images.*Debian"):
        open_source(fashion(None))
    write_files(tmp_path / "debian", idx_files(TRAIN, TEST))
    assert len(labels_of(open_source(fashion(None)))) == 8


@pytest.mark.parametrize(
    ("name", "damage", "complaint"),
    [
        ("train-images-idx3-ubyte.gz", lambda data: data[:-20], "not a whole gzip file"),
        ("train-images-idx3-ubyte.gz", lambda _: b"", "not an IDX file"),
        ("t10k-images-idx3-ubyte.gz", lambda _: b"<html>404", "not a whole gzip file"),
        ("train-images-idx3-ubyte.gz", lambda _: gzip.compress(idx(TRAIN[1])), "3 dimensions"),
        ("train-images-idx3-ubyte.gz", lambda _: gzip.compress(idx(TRAIN[0])[:-1]), "header says"),
        ("t10k-labels-idx1-ubyte.gz", lambda _: gzip.compress(idx(TRAIN[1])), "6 labels, but 2"),
    ],
)
def test_damaged_idx_files(tmp_path, name, damage, complaint):
    files = idx_files(TRAIN, TEST)
    write_files(tmp_path, files | {name: damage(files[name])})
    with pytest.raises(UserError, match=complaint) as caught:
        open_source(fashion(tmp_path))
    assert name in str(caught.value)


# --- CIFAR-10 -----------------------------------------------------------------------------------

CIFAR_NAMES = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
CIFAR_PIXELS = {name: random_images(300, 3072, seed=i) for i, name in enumerate(CIFAR_NAMES)}
CIFAR_LABELS = {name: (np.arange(300) + i) % 10 for i, name in enumerate(CIFAR_NAMES)}
VERSIONS = {
    "python": ("cifar-10-batches-py", "", cifar_pickled_batch),
    "binary": ("cifar-10-batches-bin", ".bin", cifar_binary_batch),
}


def cifar_files(version):
    folder, suffix, batch = VERSIONS[version]
    return {
        f"{folder}/{name}{suffix}": batch(CIFAR_PIXELS[name], CIFAR_LABELS[name])
        for name in CIFAR_NAMES
    } | {f"{folder}/readme.html": b"<html>"}


def write_cifar(root, version, packed, files=None):
    files = files or cifar_files(version)
    if packed:
        write_tar(root / f"cifar-10-{version}.tar.gz", files)
    else:
        write_files(root, files)
    return root


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "unpacked"])
@pytest.mark.parametrize("version", VERSIONS)
def test_cifar10(tmp_path, version, packed):
    source = open_source(cifar(write_cifar(tmp_path, version, packed)))
    assert (len(source.train), len(source.test)) == (1500, 300)
    planes = np.concatenate([CIFAR_PIXELS[name] for name in CIFAR_NAMES]).reshape(-1, 3, 32, 32)
    np.testing.assert_array_equal(pixels_of(source), planes.transpose(0, 2, 3, 1))
    np.testing.assert_array_equal(
        labels_of(source), np.concatenate([CIFAR_LABELS[name] for name in CIFAR_NAMES])
    )
    assert source.class_names[6] == "frog"
    assert len(source.checksums) == (1 if packed else 6)


def test_our_pickled_batches_are_real_ones():
    data = cifar_pickled_batch(CIFAR_PIXELS["test_batch"], CIFAR_LABELS["test_batch"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        batch = pickle.loads(data, encoding="latin1")
    np.testing.assert_array_equal(batch["data"], CIFAR_PIXELS["test_batch"])
    assert batch["labels"] == CIFAR_LABELS["test_batch"].tolist()


class Trap:
    """A pickle of this creates a file when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_a_pickle_that_calls_something_is_refused_and_not_run(tmp_path):
    files = cifar_files("python")
    files["cifar-10-batches-py/data_batch_3"] = pickle.dumps(Trap(tmp_path / "ran"), protocol=2)
    write_cifar(tmp_path, "python", packed=False, files=files)
    with pytest.raises(UserError, match=r"data_batch_3: not a batch of CIFAR-10 .*it names"):
        open_source(cifar(tmp_path))
    assert not (tmp_path / "ran").exists()


BATCH = cifar_pickled_batch(CIFAR_PIXELS["test_batch"], CIFAR_LABELS["test_batch"])


@pytest.mark.parametrize(
    "data",
    [
        b"",
        BATCH[:-1],
        BATCH[: len(BATCH) // 2],
        BATCH.replace(b"U\x02u1", b"U\x02f8"),
        cifar_pickled_batch(CIFAR_PIXELS["test_batch"], np.arange(9)),
        cifar_pickled_batch(CIFAR_PIXELS["test_batch"][:, :100], CIFAR_LABELS["test_batch"]),
        cifar_pickled_batch(CIFAR_PIXELS["test_batch"], np.full(300, 10)),
        pickle.dumps([1, 2, 3]),
    ],
)
def test_damaged_pickled_batches(tmp_path, data):
    files = cifar_files("python") | {"cifar-10-batches-py/test_batch": data}
    write_cifar(tmp_path, "python", packed=False, files=files)
    with pytest.raises(UserError, match=r"test_batch: .*get it again"):
        open_source(cifar(tmp_path))


def test_damaged_binary_batches(tmp_path):
    files = cifar_files("binary")
    files["cifar-10-batches-bin/test_batch.bin"] += b"x"
    write_cifar(tmp_path, "binary", packed=True, files=files)
    with pytest.raises(UserError, match=r"test_batch\.bin: .*records of 3073"):
        open_source(cifar(tmp_path))


@pytest.mark.parametrize("kept", [0, 100, -100])
def test_an_archive_cut_short(tmp_path, kept):
    path = write_cifar(tmp_path, "python", packed=True) / "cifar-10-python.tar.gz"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(UserError, match=r"cifar-10-python\.tar\.gz: not a whole \.tar\.gz"):
        open_source(cifar(tmp_path))


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "unpacked"])
def test_a_missing_batch(tmp_path, packed):
    files = cifar_files("binary")
    del files["cifar-10-batches-bin/data_batch_2.bin"]
    write_cifar(tmp_path, "binary", packed, files)
    with pytest.raises(UserError, match=r"data_batch_2\.bin"):
        open_source(cifar(tmp_path))


def test_an_empty_folder_says_what_to_get(tmp_path):
    with pytest.raises(UserError, match=r"cifar-10-python\.tar\.gz.*kriz/cifar\.html into"):
        open_source(cifar(tmp_path))


# --- downloads ----------------------------------------------------------------------------------


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path):
    """Serves tmp_path/served; yields the address."""
    (tmp_path / "served").mkdir()
    handler = partial(QuietHandler, directory=str(tmp_path / "served"))
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_download_with_checksums(tmp_path, server, monkeypatch):
    from torchvision.datasets import FashionMNIST

    files = idx_files(TRAIN, TEST)
    write_files(tmp_path / "served", files)
    monkeypatch.setattr(FashionMNIST, "mirrors", [server])
    checksums = [(name, md5(data).hexdigest()) for name, data in files.items()]
    monkeypatch.setattr(FashionMNIST, "resources", checksums)
    assert len(labels_of(open_source(fashion(tmp_path / "got", download=True)))) == 8

    tampered = [(name, "0" * 32) for name, _ in checksums]
    monkeypatch.setattr(FashionMNIST, "resources", tampered)
    with pytest.raises(RunError, match=r"download failed .*put the four files"):
        open_source(fashion(tmp_path / "tampered", download=True))
    with pytest.raises(UserError, match="no train-images"):
        open_source(fashion(tmp_path / "tampered"))


def test_a_download_with_a_wrong_checksum_is_deleted(tmp_path, server, monkeypatch):
    from torchvision.datasets import CIFAR10

    write_cifar(tmp_path / "served", "python", packed=True)
    monkeypatch.setattr(CIFAR10, "url", f"{server}cifar-10-python.tar.gz")
    for download, error in ((True, RunError), (False, UserError)):
        with pytest.raises(error, match=r"put cifar-10-python\.tar\.gz"):
            open_source(cifar(tmp_path / "got", download))


def test_a_download_without_network(tmp_path, monkeypatch):
    from torchvision.datasets import CIFAR10

    monkeypatch.setattr(CIFAR10, "url", "http://127.0.0.1:9/cifar-10-python.tar.gz")
    with pytest.raises(RunError, match=r"download failed .*put cifar-10-python\.tar\.gz"):
        open_source(cifar(tmp_path, download=True))
