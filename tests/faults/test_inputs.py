"""Faults of reading: inputs that are truncated, damaged, of another version, or replaced."""

import contextlib
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import pytest
import torch

from psld.utils.tensors import save_tensors
from tests.commands import call, files_below, succeeded
from tests.faults.checks import begin_again, check_again, check_nothing_lost, refused
from tests.faults.stages import COMMANDS, MODEL, STAGES, Stage, make_project
from tests.results import sealed

pytestmark = pytest.mark.slow

DIGEST = "data/tiny.digest"
"""The digest of the pictures; the model of a cell must have been trained on these pictures."""


def check_damaged(
    project: Path, finished: Path, stage: Stage, name: str, damage: Callable[[Path], None]
) -> None:
    """Run the stage with a damaged input.

    The command must refuse and name the input, and nothing may be lost. The stage that makes the
    input repairs it, and changes nothing else.
    """
    path = project / name
    before = begin_again(project, stage)
    damage(path)
    ended = stage.run(project)
    refused(ended, 2, name, str(Path(name).parent))
    damaged = {**before, name: path.read_bytes()}
    check_nothing_lost(project, stage, damaged, finished)
    maker = stage.inputs[name]
    succeeded(call(project, maker, *COMMANDS[maker]))
    check_equal(project, finished, stage)
    check_again(project, stage, files_below(project), finished)


def check_equal(project: Path, finished: Path, stage: Stage) -> None:
    """Check that all other stages have the results of a project without faults."""
    for other in STAGES:
        if other.name != stage.name:
            assert other.result(project) == other.result(finished), other.name


def flipped(path: Path) -> None:
    """Flip a bit at three places of the file. (tests/fuzz flips single bytes, truncates and empties
    files.)"""
    content = bytearray(path.read_bytes())
    for part in (1, 3, 5):
        content[part * len(content) // 6] ^= 1
    path.write_bytes(content)


def as_other_version(path: Path) -> None:
    """Rewrite a file as another version of the software would, with correct digests."""
    match path.suffix:
        case ".json":
            content = json.loads(path.read_bytes())
            if "weights_sha256" in content:
                # An additional fact would be ignored, but an additional setting is not.
                content["settings"]["added"] = 1
            path.write_text(sealed({**content, "added": 1}))
        case ".h5":
            with h5py.File(path, "a") as file:
                file.attrs["format_version"] = 99
        case ".safetensors":
            save_tensors(path, "other", {"other": torch.zeros(1)}, {})


@pytest.mark.parametrize("damage", [flipped, as_other_version])
def test_damaged_input(project, finished, stage: Stage, damage: Callable[[Path], None]):
    for name in stage.inputs:
        check_damaged(project, finished, stage, name, damage)


# --- inputs that are replaced while a command reads them ------------------------------------------


@pytest.fixture(scope="module")
def other(finished) -> Path:
    """A second project, from other pictures and with other seeds, which is consistent in itself."""
    folder = finished.parent / "project"
    shutil.rmtree(folder)
    make_project(folder, seed=1)
    return shutil.copytree(folder, finished.parent / "other", symlinks=True)


def test_input_replaced_while_it_is_read(other, project, finished, stage: Stage):
    """When the command opens an input, all inputs are replaced by the inputs of the other project.

    The result equals the result of one of the two projects, or the command refuses in one line.
    """
    results = [stage.result(folder) for folder in (finished, other)]
    assert results[0] != results[1]
    for position in range(100):
        shutil.rmtree(project)
        shutil.copytree(finished, project, symlinks=True)
        begin_again(project, stage)
        with replaced(project, other, stage, position) as opened:
            ended = stage.run(project)
        if ended.returncode:
            refused(ended, 2, *stage.inputs, *{str(Path(name).parent) for name in stage.inputs})
            succeeded(stage.run(project))
        assert stage.result(project) in results
        if opened.count <= position:
            break
    assert 0 < position < 100


class Opened:
    """The number of times that inputs were opened."""

    count = 0


@contextlib.contextmanager
def replaced(project: Path, other: Path, stage: Stage, position: int) -> Iterator[Opened]:
    """Replace all inputs after `position` openings of inputs, just before the next opening."""
    opened, names = Opened(), {project / name for name in stage.inputs}

    def see(path: object) -> None:
        if Path(str(path)).absolute() not in names:
            return
        if opened.count == position:
            for name in [*stage.inputs, *([DIGEST] if MODEL.keys() & stage.inputs.keys() else [])]:
                copy = project / "replacement"
                shutil.copy(other / name, copy)
                copy.replace(project / name)
        opened.count += 1

    watching.append(see)
    try:
        yield opened
    finally:
        watching.remove(see)


watching: list[Callable[[object], None]] = []
"""Functions that are called with the path whenever Python opens a file."""


def _audit(event: str, arguments: tuple[object, ...]) -> None:
    if event == "open" and watching:
        [see] = watching
        watching.clear()  # `see` opens files itself.
        see(arguments[0])
        watching.append(see)


sys.addaudithook(_audit)
