"""A project with a certificate of its tiny grid."""

import shutil
from pathlib import Path

import pytest

from tests.commands import Finished, call, succeeded
from tests.report.certified import make_project

CERTIFICATE = "results/certificates/mine.zip"


@pytest.fixture(scope="session")
def made(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("certified")
    make_project(folder)
    succeeded(call(folder, "certify", "grid_name=mine"))
    return folder


@pytest.fixture
def project(made, tmp_path) -> Path:
    """A copy of the project to change."""
    return shutil.copytree(made, tmp_path / "project")


@pytest.fixture(scope="session")
def certificate(made) -> bytes:
    return (made / CERTIFICATE).read_bytes()


def verify(folder: Path, *certificates: bytes) -> Finished:
    files = [f"{number}.zip" for number in range(len(certificates))]
    for file, content in zip(files, certificates, strict=True):
        (folder / file).write_bytes(content)
    return call(folder, "verify", *files)
