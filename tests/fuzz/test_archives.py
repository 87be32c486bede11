"""Archives from elsewhere: pictures, certificates, IDX files."""

import gzip
import shutil
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from psld.data.arrays import read_idx
from psld.data.picture import decode
from psld.data.settings import FolderSource
from psld.data.source import open_folder
from psld.report.certificate import INDEX, verify
from tests.data.formats import encode, random_images, write_zip
from tests.fuzz.inputs import answer, damaged, slow
from tests.report.certified import entries_of, forged, zipped

PICTURES = {f"{kind}/{i}.png": encode(random_images(4, 4, seed=i)) for i, kind in enumerate("abab")}
NAMES = ("", "/", ".", "..", "../../x.png", "/x.png", "a//x.png", "\0.png", "a\nb.png", "é.png")


def pixels(path: Path) -> list[np.ndarray]:
    source = open_folder(FolderSource(kind="folder", root=str(path), test_fraction=0.25))
    return [np.asarray(each.read()) for each in (*source.train, *source.test)]


def test_zips_of_pictures(place):
    path = write_zip(place / "pictures.zip", PICTURES)
    right = pixels(path)

    @given(damaged(path.read_bytes()))
    def check(content):
        path.write_bytes(content)
        found = answer("zip of pictures", lambda: pixels(path), str(path))
        # Fewer names, or others, are another archive: the dataset's digest differs.
        assert found is None or len(found) != len(right) or np.array_equal(found, right)

    check()


@pytest.mark.filterwarnings("ignore:Duplicate name")
@given(st.lists(st.one_of(st.sampled_from(NAMES), st.text(max_size=8)), min_size=1, max_size=4))
def test_names_in_zips(place, names):
    path = place / "names.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            entry = zipfile.ZipInfo()
            entry.filename = name.encode("utf-8", "replace").decode()
            archive.writestr(entry, b"x")
    answer("zip of pictures", lambda: pixels(path), str(path))


@given(st.data())
def test_pictures(data):
    kind = data.draw(st.sampled_from(sorted(ENCODED)))
    content = data.draw(damaged(ENCODED[kind]))
    answer("picture", lambda: decode(content, "x/y.png"), "x/y.png")


ENCODED = {kind: encode(random_images(6, 6, 3), kind) for kind in ("png", "jpeg", "bmp", "tiff")}


@slow
@given(st.data())
def test_certificates(project, place, data):
    """Damaged zips, and damaged files in them with right digests."""
    whole = (project / "results/certificates/mine.zip").read_bytes()
    entries = entries_of(whole)
    name = data.draw(st.sampled_from(["", *sorted(entries)]))
    content = data.draw(damaged(entries.get(name, whole)))
    path, folder = place / "mine.zip", place / "verified"
    write = zipped if name == INDEX else forged
    path.write_bytes(write({**entries, name: content}) if name else content)
    shutil.rmtree(folder, ignore_errors=True)
    verified = answer("certificate", lambda: verify(path, folder), str(path))
    assert name or verified is None or verified.wrong == []


@pytest.mark.parametrize("name", ["images.gz", "images"])
def test_idx(place, name):
    path = place / name
    array = bytes([0, 0, 8, 3]) + struct.pack(">3I", 2, 3, 3) + bytes(18)
    content = gzip.compress(array) if name.endswith("gz") else array

    @given(damaged(content))
    def check(content):
        path.write_bytes(content)
        answer("IDX file", lambda: read_idx(path), str(path))

    check()
