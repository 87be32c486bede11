"""The sections of docs/library.md, each run as it is written, on a model that is hardly trained."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.workflow.project import REPOSITORY

PAGE = (REPOSITORY / "docs" / "library.md").read_text()

SECTIONS = dict(re.findall(r"^## (.*?)\n.*?^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE))

MADE = {
    "Sample from a model": "sixteen.png",
    "Define a process and look at its kernel": "kernel.png",
}
"""The files that a section leaves."""


@pytest.fixture(scope="module")
def folder(model, features, tmp_path_factory) -> Path:
    """A folder with what the demo leaves: a model and an extractor."""
    folder = tmp_path_factory.mktemp("library")
    shutil.copytree(model, folder / "models" / "demo" / "psld-0.02")
    shutil.copytree(features, folder / "features" / "digits" / "fd-classifier")
    return folder


def test_every_section_has_code():
    assert len(SECTIONS) == PAGE.count("\n## ") == PAGE.count("```python")


@pytest.mark.parametrize("section", SECTIONS)
def test_a_section_runs(section, folder):
    code = f"{SECTIONS[section]}\nassert 'images' not in dir() or images.isfinite().all()\n"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    if section in MADE:
        assert (folder / MADE[section]).stat().st_size > 100
