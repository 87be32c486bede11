"""One cluster for all tests of this folder, restored to a working state before each test.

Its folder is FOLDER, not pytest's, so the remains of a killed run are found and removed.
"""

import signal
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock, Timeout

from tests.commands import call, succeeded
from tests.slurm.cluster import Cluster, missing
from tests.slurm.training import Training

FOLDER = Path(tempfile.gettempdir()) / "psld-slurm-tests"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of this folder; skip them, with the reason, where there can be no cluster."""
    reason = missing()
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.slurm)
            if reason:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, Any]:
    """Print the output of the launcher and the ranks, because such a failure may be rare."""
    report = yield
    training = getattr(item, "funcargs", {}).get("training")
    if report.failed and training and training.log.exists():
        for log in (training.log, *sorted(training.folder.glob("runs/launches/*/*.err"))):
            report.sections.append((log.name, log.read_text()))
    return report


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Four nodes, each with 4 CPUs and two stand-in GPUs."""
    try:
        lock = FileLock(f"{FOLDER}.lock", timeout=0).acquire()
    except Timeout:
        pytest.fail(f"another run of these tests uses {FOLDER}: wait for it, or set TMPDIR")
    # SIGTERM ends the tests and also the cluster.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with lock, Cluster(FOLDER) as cluster:
        yield cluster


@pytest.fixture(autouse=True)
def _healthy(request: pytest.FixtureRequest) -> Iterator[None]:
    """Repair the cluster after each test."""
    if "cluster" not in request.fixturenames:
        yield
        return
    cluster: Cluster = request.getfixturevalue("cluster")
    yield
    cluster.reset()


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The prepared digits, with their digest in the same folder."""
    folder = tmp_path_factory.mktemp("data")
    succeeded(call(folder, "prepare", "dataset=digits", "output=digits.h5"))
    return folder / "digits.h5"


@pytest.fixture
def training(cluster: Cluster, digits: Path, tmp_path: Path) -> Training:
    return Training(cluster, tmp_path, digits)


@pytest.fixture(scope="session")
def undisturbed(
    cluster: Cluster, digits: Path, tmp_path_factory: pytest.TempPathFactory
) -> Training:
    """An undisturbed training on two nodes."""
    training = Training(cluster, tmp_path_factory.mktemp("undisturbed"), digits)
    with training.launched() as launcher:
        training.finishes(launcher)
    return training
