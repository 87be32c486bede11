"""Records of JSON: damaged ones are named, and no changed value goes unnoticed."""

import json
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from psld.cluster import solo
from psld.cluster.job import outcome_file, read_outcomes
from psld.cluster.launcher import Launch
from psld.cluster.requeue import Life, read_lives
from psld.config.settings import read_record, write_record
from psld.data.description import Described
from psld.grid import paths
from psld.grid.results import CellResults, LikelihoodResult
from psld.metrics.classifier import read_extractor_manifest as read_extractor
from psld.metrics.likelihood import LikelihoodShard
from psld.metrics.reference_folder import read_reference_manifest
from psld.training.history import TrainingHistory, write_history
from psld.training.manifest import read_manifest
from psld.utils.files import read_json, write_json
from tests.fuzz.inputs import answer, changed, damaged
from tests.results import sealed

LAUNCH = Launch(name="a" * 32, run="/runs/x", job="17")


class Record(NamedTuple):
    file: str
    read: Callable[[Path], Any]
    """Takes the file."""


def model_of(file: Path) -> Any:
    return read_manifest(file.parent)


RECORDS = {
    "model manifest": Record("models/mine/vp-sde/manifest.json", model_of),
    "reference manifest": Record(
        f"{paths.reference_folder('digits', 'fd-classifier')}/manifest.json",
        lambda file: read_reference_manifest(file.parent),
    ),
    "extractor manifest": Record(
        f"{paths.extractor_folder('digits', 'fd-classifier')}/manifest.json",
        lambda file: read_extractor(file.parent),
    ),
    "results of a cell": Record(paths.cell_result("mine", "vp-sde/em-10"), CellResults.read),
    "likelihood": Record(paths.likelihood("mine", "vp-sde"), LikelihoodResult.read),
    "likelihood shard": Record(
        paths.likelihood("mine", "vp-sde").replace(".json", "/00000.json"), LikelihoodShard.load
    ),
    "launch.json": Record("launch.json", lambda file: read_record(Launch, file, f"{file}: x")),
    "psld.run.json": Record("psld.run.json", lambda file: solo._latest_run(file.parent)),
    "history": Record("history.json", TrainingHistory.read),
}
"""Records with a digest: what they say cannot change."""

PLAIN = {
    "lives.json": (
        [Life(launch="a", step=3).model_dump(), Life(launch="b", step=4).model_dump()],
        lambda file: read_lives(file.parent, "a"),
    ),
    "7_0_outcome.json": ({"exit_code": 3}, lambda file: read_outcomes(file.parent, "7")),
    "dataset.json": ({"dataset": "x", "digest": "0"}, lambda file: read_json(file, Described)),
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
            case "launch.json":
                write_record(file, LAUNCH)
            case "psld.run.json":
                folder = file.parent.stat().st_ino
                host = platform.node()
                run = {"name": "a" * 32, "folder": folder, "pid": 1, "host": host}
                write_record(file, solo.Run(**run, slurm_job=""))
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
def test_files_without_a_digest(name, place):
    content, read = PLAIN[name]
    file = outcome_file(place, "7", 0) if "outcome" in name else place / name
    write_json(file, content)
    whole = file.read_bytes()
    assert read(file)

    @given(st.one_of(damaged(whole), changed(content).map(str.encode)))
    def check(text):
        file.write_bytes(text)
        answer(name, lambda: read(file), str(file))

    check()
