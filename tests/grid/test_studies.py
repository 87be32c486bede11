"""The custom parts of the studies, which shipped grids name."""

import re
from pathlib import Path

import pytest

from psld.utils.code import find_code, may_run

CONFIGS = Path(__file__).parents[2] / "configs"
NAMED = re.compile(r"\b(studies(?:\.\w+)+):\w+")
MODULES = sorted({m for file in CONFIGS.rglob("*.yaml") for m in NAMED.findall(file.read_text())})


@pytest.mark.parametrize("module", MODULES)
def test_a_model_of_a_grid_may_run_the_code_of_its_study(module):
    """Only modules of regular packages may run, so each folder of `studies` has an __init__.py."""
    assert may_run(find_code(module), "models/one/digits")
