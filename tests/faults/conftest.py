"""A project in which every stage has run, and a copy of it for each test."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.stages import make_project
from tests.report.server import WandbServer, wandb_server

QUICK = {"RETRY_WAIT_MIN_SECONDS": "0.1", "RETRY_WAIT_MAX_SECONDS": "0.1", "RETRY_MAX": "1"}


@pytest.fixture(scope="session")
def server() -> Iterator[WandbServer]:
    """A server that wandb uploads to, with a login."""
    with wandb_server() as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_BASE_URL", server.url)
        patch.setenv("WANDB_API_KEY", "0" * 40)
        for client in ("GRAPHQL", "FILE_STREAM", "FILE_TRANSFER"):
            for name, value in QUICK.items():
                patch.setenv(f"WANDB_X_{client}_{name}", value)
        yield server


@pytest.fixture(scope="session")
def finished(server, tmp_path_factory) -> Path:
    """The project after all stages, which no test changes."""
    folder = tmp_path_factory.mktemp("faults")
    make_project(folder / "project")
    return shutil.copytree(folder / "project", folder / "finished", symlinks=True)


@pytest.fixture
def project(finished, server) -> Iterator[Path]:
    """A copy to break, where it was made: the cache of a grid holds for one place.

    Whatever happens to it, wandb's server has each step of the run there once.
    """
    folder = finished.parent / "project"
    shutil.rmtree(folder)
    yield shutil.copytree(finished, folder, symlinks=True)
    assert set(server.steps("synced")) <= {1, 2}
