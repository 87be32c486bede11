"""The project's grids, and an empty folder of the user's configs."""

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
    """The working directory: empty, but the project's grids need not be resolved in it."""
    cache = tmp_path / CACHE
    cache.parent.mkdir()
    cache.symlink_to(resolved / CACHE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def configs(tmp_path, monkeypatch) -> Path:
    """The user's own folder of configs, with no grid yet; the cache starts empty."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs" / "grid").mkdir(parents=True)
    return tmp_path / "configs"
