"""The project's grids, composed once for all tests, and an empty folder of the user's configs."""

from pathlib import Path

import pytest

from psld.grid.loading import CACHE, load_grid
from psld.grid.resolved import Grid
from psld.grid.workflow import Workflow


@pytest.fixture(scope="session")
def composed(tmp_path_factory) -> Path:
    """A folder whose cache has the grids of the project."""
    folder = tmp_path_factory.mktemp("grids")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name in ("demo", "paper"):
            load_grid(name)
    return folder


def _load(name: str, composed: Path) -> Grid:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(composed)
        return load_grid(name)


@pytest.fixture(scope="session")
def demo(composed) -> Grid:
    return _load("demo", composed)


@pytest.fixture(scope="session")
def paper(composed) -> Grid:
    return _load("paper", composed)


@pytest.fixture(scope="session")
def grids(demo, paper) -> dict[str, Grid]:
    return {"demo": demo, "paper": paper}


@pytest.fixture(scope="session")
def workflow(grids) -> Workflow:
    return Workflow(grids)


@pytest.fixture
def folder(composed, tmp_path) -> Path:
    """An empty folder in which the project's grids need not be composed."""
    cache = tmp_path / CACHE
    cache.parent.mkdir()
    cache.symlink_to(composed / CACHE)
    return tmp_path


@pytest.fixture
def configs(tmp_path, monkeypatch) -> Path:
    """The user's own folder of configs, with no grid yet; the cache starts empty."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs" / "grid").mkdir(parents=True)
    return tmp_path / "configs"
