"""The project's grids, resolved once for all tests, and an empty folder of the user's configs."""

import contextlib
from pathlib import Path

import pytest

from psld.grid.cache import CACHE, load_grid
from psld.grid.cells import Grid
from psld.grid.workflow import Workflow


@pytest.fixture(scope="session")
def resolved(tmp_path_factory) -> Path:
    """A folder whose cache has the grids of the project."""
    folder = tmp_path_factory.mktemp("grids")
    with contextlib.chdir(folder):
        load_grid("paper")
    return folder


@pytest.fixture(scope="session")
def grids(resolved) -> dict[str, Grid]:
    with contextlib.chdir(resolved):
        return {name: load_grid(name) for name in ("demo", "paper")}


@pytest.fixture(scope="session")
def demo(grids) -> Grid:
    return grids["demo"]


@pytest.fixture(scope="session")
def paper(grids) -> Grid:
    return grids["paper"]


@pytest.fixture(scope="session")
def workflow(grids) -> Workflow:
    return Workflow(grids)


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
