"""A project in which every stage has run, and a copy of it for each test and stage."""

import shutil
from pathlib import Path

import pytest

from tests.faults.stages import STAGES, Stage, make_project


@pytest.fixture(params=STAGES, ids=lambda stage: stage.name)
def stage(request) -> Stage:
    return request.param


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Path:
    """The project after all stages; no test changes it."""
    folder = tmp_path_factory.mktemp("faults")
    make_project(folder / "project")
    return shutil.copytree(folder / "project", folder / "finished", symlinks=True)


@pytest.fixture
def project(finished) -> Path:
    """A copy of the project that a test may damage. The copy has the path of the original, because
    the cache of a grid is valid for one path."""
    folder = finished.parent / "project"
    shutil.rmtree(folder)
    return shutil.copytree(finished, folder, symlinks=True)
