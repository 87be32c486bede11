"""Sources as parts: shipped sources, their classes in a file outside, and a custom source."""

import inspect
import json
from importlib import import_module

import numpy as np
import pytest
from PIL import Image

from psld.config.kinds import SHIPPED
from psld.config.settings import parse
from psld.data.preparation import notes_on_prepared, prepare_dataset
from psld.data.settings import DatasetSettings, PrepareSettings
from psld.data.store import ImageStore
from psld.parts import Source
from psld.utils.errors import UserError
from tests.commands import TINY, call, refused, succeeded
from tests.data.formats import (
    afhq_files,
    celeba_files,
    encode,
    idx_files,
    random_images,
    write_cifar10,
    write_files,
)
from tests.hub import empty_hub
from tests.parts.contract import check_settings

DATASET = {"name": "mine", "channels": 1, "image_size": 8, "flip": False, "filter": "box"}
CLASSES = {"digits": 10, "mnist": 10, "fashion-mnist": 10, "cifar10": 10}
CLASSES |= {"celeba": 0, "afhqv2": 3, "folder": 2, "array": 2, "datasets": 2}
SOURCES = [kind for kind in SHIPPED["source"] if kind != "prepared"]  # tests/data/test_tensors.py
OPTIONS = {
    "folder": {"test_fraction": 0.5},
    "array": {"test_fraction": 0.5, "path": "array.npz"},
    "datasets": {"test_fraction": 0.5, "path": "saved"},
}
YOURS = ("folder", "array", "datasets")
"""The kinds of sources whose path determines the images."""


def dataset(kind, source, **changes):
    content = DATASET | {"num_classes": CLASSES[kind]} | changes
    return parse(DatasetSettings, content | {"source": source}, "test")


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Write the files of all sources, and the modules of the shipped classes, into the working
    folder."""
    monkeypatch.chdir(tmp_path)
    digits = random_images(3, 28, 28), np.arange(3, dtype=np.uint8)
    pictures = {f"{name}/{i}.png": encode(random_images(9, 9)) for name in "ab" for i in range(4)}
    files = {
        "mnist": idx_files(digits, digits),
        "fashion-mnist": idx_files(digits, digits),
        "celeba": celeba_files(2),
        "afhqv2": afhq_files(train=2, test=1, size=16),
        "folder": pictures,
    }
    for folder, contents in files.items():
        write_files(tmp_path / folder, contents)
    batches = [random_images(2, 3072)] * 6
    names = [f"{i}" for i in range(10)]
    write_cifar10(tmp_path / "cifar10", batches, [np.arange(2)] * 6, names, monkeypatch)
    np.savez("array.npz", arr_0=random_images(8, 9, 9), labels=np.arange(8) % 2)
    for module in {name.partition(":")[0] for name in SHIPPED["source"].values()}:
        code = inspect.getsource(import_module(module))
        (tmp_path / f"{module.replace('.', '_')}.py").write_text(code)
    return tmp_path


@pytest.mark.parametrize("kind", SOURCES)
def test_a_shipped_source_and_its_class_in_a_file_outside(files, kind):
    if kind == "datasets":
        with empty_hub(files):  # huggingface_hub reads HF_ENDPOINT at import
            library = pytest.importorskip("datasets")
        pixels = [Image.fromarray(each) for each in random_images(8, 9, 9)]
        types = {"image": library.Image(), "label": library.ClassLabel(names=["a", "b"])}
        columns = {"image": pixels, "label": [0, 1] * 4}
        library.Dataset.from_dict(columns, library.Features(types)).save_to_disk("saved")
    outside = SHIPPED["source"][kind].replace(".", "_")
    root = {"root": kind} if (files / kind).exists() else {}
    made = {}
    for each in (kind, outside):
        source = {"kind": each, **root, **OPTIONS.get(kind, {})}
        settings = dataset(kind, source)
        check_settings(Source, source)
        # the path of a published dataset does not affect the result
        places = {"root": "elsewhere", "path": "elsewhere", "download": False}
        given = {key: places[key] for key in places if hasattr(settings.source, key)}
        other = dataset(kind, source | given, name="other", flip=True)
        assert (other.preparation() == settings.preparation()) == (kind not in YOURS)
        made[each] = prepare_dataset(settings, files / f"{len(made)}.h5")
    shipped, moved = made.values()
    for key in ("digest", "splits", "class_names", "seen"):
        assert moved[key] == shipped[key], key


# --- a custom source ----------------------------------------------------------------------------

WORDS = """
from pathlib import Path
from typing import Annotated

import numpy as np
from PIL import Image

from psld.parts import FREE, Images, Source


class Words(Source):
    shift: int = 0
    root: Annotated[str, FREE] = "words.txt"

    def open(self):
        lines = Path(self.root).read_text().split()
        pairs = [(lambda word=word: self.drawn(word), len(word) % 2) for word in lines]
        return Images(pairs[2:], pairs[:2], ("even", "odd"))

    def drawn(self, word):
        bits = np.unpackbits(np.frombuffer(word.encode().ljust(8), np.uint8))
        picture = np.roll(255 * bits.reshape(8, 8), self.shift, axis=1)
        return picture

    def seen(self):
        return f"{len(Path(self.root).read_text().split())} words"
"""
"""A custom source, in a file of the working folder."""

CONFIG = """
name: mine
channels: 1
image_size: 8
num_classes: 2
flip: false
filter: null
source: {kind: wordlist:Words}
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An otherwise empty folder with a source, a config and the source's data."""
    monkeypatch.chdir(tmp_path)
    text = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"
    files = {"wordlist.py": WORDS, "configs/dataset/mine.yaml": CONFIG, "words.txt": text}
    return write_files(tmp_path, {name: text.encode() for name, text in files.items()})


def test_a_model_trains_on_a_dataset_of_a_custom_source(folder):
    assert WORDS.count("\n") <= 40
    said = succeeded(call(folder, "prepare", "dataset=mine")).stdout
    assert "14 images of 1×8×8 (12 train, 2 test)" in said
    assert "classes: 0 even, 1 odd" in said
    store = ImageStore.open("data/mine.h5")
    words = (folder / "words.txt").read_text().split()
    labels = [len(word) % 2 for word in (*words[2:], *words[:2])]
    assert store.labels("all").tolist() == labels
    assert np.packbits(store.images("train")[0, 0] > 0).tobytes() == b"three   "
    short = (*TINY, "training.batch_size=4", "training.steps=2", "device=cpu")
    succeeded(call(folder, "train", *short, "dataset=mine", "output=one"))
    source = json.loads((folder / "one/manifest.json").read_text())["settings"]["dataset"]["source"]
    assert source["kind"] == "wordlist:Words"
    assert (source["shift"], source["root"], source["free"]) == (0, "words.txt", ["root"])
    # A prepared file is usable without its source.
    (folder / "wordlist.py").unlink()
    succeeded(call(folder, "train", *short, "data=data/mine.h5", "output=two"))


def test_overrides_select_a_source_and_its_settings(folder):
    own = ("dataset=digits", "dataset.num_classes=2", "dataset.source.shift=1")
    words = (*own, "dataset.name=other", "dataset.source=wordlist:Words")
    succeeded(call(folder, "prepare", *words))
    assert (
        np.packbits(ImageStore.open("data/other.h5").images("train")[0, 0, 0] > 0) == ord("t") >> 1
    )
    said = call(folder, "prepare", "dataset=mine", "dataset.source.shfit=1")
    refused(said, 2, "unknown key dataset.source.shfit (is dataset.source.shift meant?)")
    said = call(folder, "prepare", "dataset=mine", "dataset.source.shift=x")
    refused(said, 2, "dataset.source.shift: ", "got 'x'")


def test_a_change_of_code_or_settings_gives_another_dataset(folder):
    succeeded(call(folder, "prepare", "dataset=mine"))
    (folder / "wordlist.py").write_text(f"# a comment\n{WORDS}")
    (folder / "copy.txt").write_text((folder / "words.txt").read_text())
    succeeded(call(folder, "prepare", "dataset=mine", "dataset.source.root=copy.txt"))
    other = "data/mine.h5: prepared with another dataset.source; give another dataset.name"
    refused(call(folder, "prepare", "dataset=mine", "dataset.source.shift=1"), 2, other)
    (folder / "wordlist.py").write_text(WORDS.replace("255 *", "254 *"))
    other = "data/mine.h5: holds other images; give another dataset.name"
    refused(call(folder, "prepare", "dataset=mine"), 2, other)
    succeeded(call(folder, "prepare", "dataset=mine", "replace=true"))


def test_changes_since_the_preparation_are_reported(folder):
    content = DATASET | {"num_classes": 2, "source": "wordlist:Words"}
    settings = parse(PrepareSettings, {"dataset": content, "output": "mine.h5"}, "test")
    prepare_dataset(settings.dataset, folder / "mine.h5")
    assert list(notes_on_prepared("mine", settings)) == []
    with (folder / "words.txt").open("a") as file:
        file.write(" fifteen")
    [line] = notes_on_prepared("mine", settings)
    assert line == (
        "mine.h5: its source has changed since it was prepared (14 words; now 15 words). To use "
        "its current images: psld prepare dataset=mine replace=true"
    )
    with pytest.raises(UserError, match=r"mine\.h5: holds other images"):
        prepare_dataset(settings.dataset, folder / "mine.h5")
    (folder / "words.txt").unlink()
    assert list(notes_on_prepared("mine", settings)) == [], "it serves without its source"


def test_a_source_without_its_code_cannot_be_opened(folder):
    source = {"kind": "wordlist:Words", "code": "0" * 64, "shift": 0}
    with pytest.raises(UserError, match=r"source wordlist:Words has code 000000000000, and wordl"):
        prepare_dataset(dataset("folder", source), folder / "x.h5")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            "return picture",
            "return picture / 1",
            "train picture 0: float64, not uint8; for",
        ),
        ("len(word) % 2)", "len(word) - 3)", "train picture 0: label 2, but there are 2 classes"),
        ("pairs[2:]", "[]", "no training images are left"),
    ],
)
def test_invalid_images_and_labels_are_refused(folder, old, new, said):
    assert old in WORDS
    (folder / "wordlist.py").write_text(WORDS.replace(old, new))
    content = DATASET | {"num_classes": 2, "source": "wordlist:Words"}
    with pytest.raises(UserError) as refusal:
        prepare_dataset(parse(DatasetSettings, content, "test"), folder / "x.h5")
    assert str(refusal.value).startswith("dataset.source: ")
    assert said in str(refusal.value)
    assert not list(folder.glob("*.h5*")), "nothing half written"
