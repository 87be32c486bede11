"""Profiles: few fixed inputs in `make test`, many random ones with --hypothesis-profile=fuzz."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Machines are slow at times: `answer` limits the CPU time of an input, not the wall-clock time.
ALWAYS = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}

settings.register_profile("tests", max_examples=25, derandomize=True, **ALWAYS)
settings.register_profile("fuzz", max_examples=2500, print_blob=True, **ALWAYS)


def pytest_configure(config: pytest.Config) -> None:
    if not config.getoption("--hypothesis-profile"):
        settings.load_profile("tests")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for the damaged file."""
    return tmp_path_factory.mktemp("damaged")
