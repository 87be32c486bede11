"""Projects for Snakemake: one without any run, one with a complete run."""

import os
from pathlib import Path

import pytest
from filelock import FileLock

from tests.workflow.project import Project


@pytest.fixture
def fresh(tmp_path) -> Project:
    """The project before anything exists."""
    return Project.create(tmp_path / "fresh")


@pytest.fixture(scope="session")
def finished_once(tmp_path_factory) -> Project:
    """The project after one real run of its grid; one run serves all workers of pytest-xdist."""
    shared: Path = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    folder, done = shared / "finished", shared / "finished.done"
    with FileLock(shared / "finished.lock"):
        if not done.exists():
            Project.create(folder).run("tiny")
            done.touch()
    return Project(folder)


@pytest.fixture
def finished(finished_once, tmp_path) -> Project:
    """A copy of the finished project, to be changed at will."""
    return finished_once.copy(tmp_path / "finished")
