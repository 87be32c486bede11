"""Records in JSON: damaged records are named, and every changed value is noticed."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from psld.cluster.job import begin_life
from psld.data.store import PreparedRecord
from psld.evaluation.results import CellResults
from psld.models.manifest import read_manifest
from psld.utils.files import read_json, write_json
from tests.fuzz.inputs import answer, changed, damaged
from tests.grid.mine import CONTENT, write_grid
from tests.results import sealed, write_model_manifest, write_result

READERS: dict[str, Callable[[Path], Any]] = {
    "model": lambda file: read_manifest(file.parent),
    "result": CellResults.read,
}
"""Records with a digest, which share one reader: their content cannot be changed."""

DIGITS = {
    **{"name": "x", "channels": 1, "image_size": 8, "num_classes": 10, "flip": False},
    **{"filter": None, "source": {"kind": "digits"}},
}
PLAIN = {
    "lives.json": ({"7": [3], "8": [4]}, lambda file: begin_life(file.parent, 3) or True),
    "dataset.json": (
        {"settings": DIGITS, "digest": "0"},
        lambda file: read_json(file, PreparedRecord),
    ),
}
"""Files without a digest: a changed value is accepted if it is valid."""


def with_right_digest(text: str) -> str:
    try:
        content = json.loads(text)
        return sealed(content) if isinstance(content, dict) else text
    except (ValueError, RecursionError):
        return text


@pytest.fixture(scope="module")
def records(place) -> dict[str, Path]:
    grid = write_grid(place, CONTENT)
    return {
        "model": write_model_manifest(place, grid, "psld") / "manifest.json",
        "result": write_result(place, grid, "psld/em-10", value=3.0),
    }


@pytest.mark.parametrize(("name", "corrected"), [("model", True), ("result", False)])
def test_records(name, corrected, records, place):
    """A changed record with a corrected digest is read as it is, or refused."""
    read, whole = READERS[name], records[name].read_bytes()
    right, file = read(records[name]), place / records[name].name
    as_written = with_right_digest if corrected else str
    changes = changed(json.loads(whole)).map(as_written).map(str.encode)

    @given(changes if corrected else st.one_of(damaged(whole), changes))
    @example(b"")
    @example(whole[: len(whole) // 2])
    def check(content):
        file.write_bytes(content)
        found = answer(lambda: read(file), str(file))
        assert found is None or found == right or corrected

    check()


@pytest.mark.parametrize("name", PLAIN)
def test_files_without_a_digest(name, place, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    content, read = PLAIN[name]
    file = place / name
    write_json(file, content)
    whole = file.read_bytes()
    assert read(file)

    @given(st.one_of(damaged(whole), changed(content).map(str.encode)))
    def check(text):
        file.write_bytes(text)
        answer(lambda: read(file), str(file))

    check()
