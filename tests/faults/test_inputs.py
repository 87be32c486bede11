"""Faults of reading: inputs that are cut short, damaged, of another version, or replaced."""

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
"""The model of a cell must be of these pictures."""


def check_damaged(
    project: Path, finished: Path, stage: Stage, name: str, damage: Callable[[Path], None]
) -> None:
    """Run the stage with a damaged input.

    It is refused and named, nothing is lost, and the named stage makes the input again and nothing
    else.
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
    """Check that all stages but this one have the results of a project without faults."""
    for other in STAGES:
        if other.name != stage.name:
            assert other.result(project) == other.result(finished), other.name


def flipped(path: Path) -> None:
    """Flip a bit in some bytes all over the file. (Fuzzing flips each alone, cuts and empties.)"""
    content = bytearray(path.read_bytes())
    for part in (1, 3, 5):
        content[part * len(content) // 6] ^= 1
    path.write_bytes(content)


def as_other_version(path: Path) -> None:
    """Rewrite a file as another version of the software would, whole and with right digests."""
    match path.suffix:
        case ".json":
            content = json.loads(path.read_bytes())
            if "weights_sha256" in content:
                # A fact more is ignored, but not a setting more.
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


# --- replaced while it is read --------------------------------------------------------------------


@pytest.fixture(scope="module")
def other(finished) -> Path:
    """The project once more, from other pictures and with other seeds; whole in itself."""
    folder = finished.parent / "project"
    shutil.rmtree(folder)
    make_project(folder, seed=1)
    return shutil.copytree(folder, finished.parent / "other", symlinks=True)


def test_input_replaced_while_it_is_read(other, project, finished, stage: Stage):
    """When the command opens an input, all inputs are replaced by those of the other project.

    The result is that of the one or of the other, or a refusal in one line.
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
    """Replace all inputs before one is opened for the time with this number."""
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
"""The functions that see every opening of a file by Python."""


def _audit(event: str, arguments: tuple[object, ...]) -> None:
    if event == "open" and watching:
        [see] = watching
        watching.clear()  # It opens files itself.
        see(arguments[0])
        watching.append(see)


sys.addaudithook(_audit)
