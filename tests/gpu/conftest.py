"""Tests on a GPU: `make test-gpu`. Without a GPU, these tests are skipped with one line.

PSLD_TEST_DEVICE=cpu runs them on the CPU to test the tests; some tests always need a GPU.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from psld.utils.device import use_device

DEVICE = os.environ.get("PSLD_TEST_DEVICE", "cuda:0")
HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark these tests. Without a GPU, skip the first test and deselect the others."""
    own = [item for item in items if HERE in item.path.parents]
    for item in own:
        item.add_marker(pytest.mark.gpu)
    if own and DEVICE != "cpu" and not torch.cuda.is_available():
        own[0].add_marker(pytest.mark.skip(reason=f"no GPU here for {len(own)} tests"))
        items[:] = [item for item in items if item not in own[1:]]


@pytest.fixture(scope="session")
def device() -> torch.device:
    """The GPU, configured as in trainings and sampling."""
    return use_device(DEVICE, tf32=True)


@pytest.fixture
def gpu(device) -> torch.device:
    """The GPU; a test that needs a GPU is skipped on the CPU."""
    if device.type != "cuda":
        pytest.skip("on the CPU there is nothing to see")
    return device


@contextmanager
def without_waiting() -> Iterator[None]:
    """Raise if the host waits for the GPU. On the CPU, nothing is checked."""
    if DEVICE == "cpu":
        yield
        return
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")
