"""Projects for Snakemake: one without any run, one with a complete run."""

from pathlib import Path

import pytest

from tests.workflow.project import Project


@pytest.fixture
def fresh(tmp_path) -> Project:
    """The project before any run."""
    return Project.create(tmp_path / "fresh")


@pytest.fixture(scope="session")
def finished_once(once) -> Project:
    """The project after a run of its grid."""

    def fill(folder: Path) -> None:
        folder.rmdir()
        Project.create(folder).run_in_one_process("tiny")

    return Project(once("finished", fill))


@pytest.fixture
def finished(finished_once, tmp_path) -> Project:
    """A copy of the finished project, which a test may change."""
    return finished_once.copy(tmp_path / "finished")
