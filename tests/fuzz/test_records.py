"""Records of JSON: damaged ones are named, and no changed value goes unnoticed."""

import json
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from psld.cluster import head
from psld.cluster.job import begin_life
from psld.config.settings import write_record
from psld.data.store import Described
from psld.metrics.reference_folder import read_reference_manifest
from psld.metrics.results import CellResults
from psld.training.manifest import TrainingHistory, read_manifest, write_history
from psld.utils.files import read_json, write_json
from tests.fuzz.inputs import answer, changed, damaged
from tests.results import sealed


class Record(NamedTuple):
    file: str
    read: Callable[[Path], Any]
    """Takes the file."""


def model_of(file: Path) -> Any:
    return read_manifest(file.parent)


RECORDS = {
    "model manifest": Record("models/mine/vp-sde/manifest.json", model_of),
    "reference manifest": Record(
        "features/digits/fd-classifier/reference/manifest.json",
        lambda file: read_reference_manifest(file.parent),
    ),
    "results of a cell": Record("results/cells/mine/vp-sde/em-10.json", CellResults.read),
    "run.json": Record("run.json", lambda file: head.read_run(file.parent)),
    "history": Record("history.json", TrainingHistory.read),
}
"""Records with a digest: what they say cannot change."""

DIGITS = {
    **{"name": "x", "channels": 1, "image_size": 8, "num_classes": 10, "flip": False},
    **{"filter": None, "source": {"kind": "digits"}},
}
PLAIN = {
    "lives.json": ({"7": [3], "8": [4]}, lambda file: begin_life(file.parent, 3) or True),
    "launch.json": ("/runs/x", lambda file: read_json(file, str)),
    "dataset.json": ({"settings": DIGITS, "digest": "0"}, lambda file: read_json(file, Described)),
}
"""Files without a digest: a changed value that fits is taken."""


@pytest.fixture(scope="module")
def written(project, place) -> Callable[[str], Path]:
    """A function that writes a record into a folder of its own and returns its path."""

    def write(name: str) -> Path:
        record = RECORDS[name]
        file = place / name.replace(" ", "-") / Path(record.file).name
        file.parent.mkdir(exist_ok=True)
        match name:
            case "history":
                write_history(file.parent, [{"step": 1, "time": 1e9, "loss": 2.5}])
            case "run.json":
                inode = file.parent.stat().st_ino
                write_record(file, head.Run(inode=inode, pid=1, host=platform.node()))
            case _:
                file.write_bytes((project / record.file).read_bytes())
        return file

    return write


@pytest.mark.parametrize("name", RECORDS)
def test_damaged_bytes(name, written):
    file, read = written(name), RECORDS[name].read
    whole, right = file.read_bytes(), read(file)

    @given(damaged(whole))
    def check(content):
        file.write_bytes(content)
        found = answer(name, lambda: read(file), str(file))
        assert found is None or found == right

    check()


def with_right_digest(text: str) -> str:
    try:
        content = json.loads(text)
        return sealed(content) if isinstance(content, dict) else text
    except (ValueError, RecursionError):
        return text


@pytest.mark.parametrize("corrected", [True, False])
@pytest.mark.parametrize("name", RECORDS)
def test_changed_values(name, corrected, written):
    """With its digest corrected, a record is read as it is, or refused."""
    file, read = written(name), RECORDS[name].read
    right, content = read(file), json.loads(file.read_text())

    @given(changed(content))
    def check(text):
        file.write_text(with_right_digest(text) if corrected else text)
        found = answer(name, lambda: read(file), str(file))
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
        answer(name, lambda: read(file), str(file))

    check()
