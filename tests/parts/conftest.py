"""A folder outside of the package, with parts of one's own."""

import shutil
from pathlib import Path

import pytest

from tests.parts.own import GUIDANCE, HEUN, write


@pytest.fixture
def outside(tmp_path, monkeypatch) -> Path:
    """The working folder, with mine.py, a guidance and a sampler of one's own."""
    shutil.copy(Path(__file__).with_name("mine.py"), tmp_path)
    monkeypatch.chdir(tmp_path)
    return write(tmp_path, pull=GUIDANCE, heun=HEUN)
