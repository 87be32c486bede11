"""A folder outside of the package, with custom parts."""

import shutil
from pathlib import Path

import pytest

from tests.parts.own import GUIDANCE, HEUN, write
from tests.workflow.project import REPOSITORY


@pytest.fixture
def outside(tmp_path, monkeypatch) -> Path:
    """The working folder, with mine.py, a custom guidance and sampler, and two of the examples."""
    shutil.copy(Path(__file__).with_name("mine.py"), tmp_path)
    for name in ("churn.py", "flows.py"):
        shutil.copy(REPOSITORY / "docs/examples" / name, tmp_path)
    monkeypatch.chdir(tmp_path)
    return write(tmp_path, pull=GUIDANCE, heun=HEUN)
