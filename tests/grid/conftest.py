"""Fixtures: the grids of the project, and an empty folder for the configs of a user."""

from pathlib import Path

import pytest

from psld.grid.cache import CACHE
from psld.grid.cells import Grid
from psld.grid.workflow import Workflow
from tests.grid.mine import workflow_of


@pytest.fixture(scope="session")
def demo(grids) -> Grid:
    return grids["demo"]


@pytest.fixture(scope="session")
def paper(grids) -> Grid:
    return grids["paper"]


@pytest.fixture(scope="session")
def workflow(grids) -> Workflow:
    return workflow_of(grids)


@pytest.fixture
def folder(resolved, tmp_path, monkeypatch) -> Path:
    """Change to an empty working directory with the cache of the project's resolved grids."""
    cache = tmp_path / CACHE
    cache.parent.mkdir()
    cache.symlink_to(resolved / CACHE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def configs(tmp_path, monkeypatch) -> Path:
    """Change to an empty working directory with an empty config folder and an empty cache."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs" / "grid").mkdir(parents=True)
    return tmp_path / "configs"
