"""Inputs that tests share, computed once: the prepared digits, a model, an extractor."""

import contextlib
import gc
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

# These tests compare bits, which depend on the device. `pytest tests/gpu` sees the GPUs.
if not any(word.startswith("tests/gpu") for word in sys.argv):
    os.environ["CUDA_VISIBLE_DEVICES"] = ""

import pytest

from psld.grid.cache import load_grid
from psld.grid.cells import Grid
from tests.commands import TINY, call, fresh_modules, succeeded
from tests.shared import Once, once_for_all_workers

# Let Python cache compiled modules, as in the Makefile. Otherwise each process would compile all
# modules, and each worker would rewrite the assertions of all tests.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
# Run commands as users do, who seldom set this variable.
os.environ.pop("PYTHONUNBUFFERED", None)

# A shell starts a background process with SIGINT ignored, and the processes of tests would inherit
# this.
signal.signal(signal.SIGINT, signal.default_int_handler)
# nohup ignores SIGHUP in the same way.
signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_collection() -> None:
    """Disable garbage collection, which takes long among the objects of imported modules."""
    gc.disable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start the longest tests first, so that no core is idle at the end."""
    items.sort(key=lambda item: item.path.name != "test_paper_shrunk.py")


def pytest_collection_finish() -> None:
    """Exempt imported modules from garbage collection, because they are never freed."""
    gc.freeze()
    gc.enable()


@contextlib.contextmanager
def handlers_kept() -> Iterator[None]:
    """Restore the signal handlers at the end of the context."""
    numbers = (signal.SIGUSR2, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(autouse=True)
def signals() -> Iterator[None]:
    with handlers_kept():
        yield


@pytest.fixture(autouse=True)
def modules() -> Iterator[None]:
    with fresh_modules():
        yield


@pytest.fixture(scope="session")
def once(tmp_path_factory) -> Once:
    return once_for_all_workers(tmp_path_factory)


@pytest.fixture(scope="session")
def digits(once) -> Path:
    """The prepared digits: 1,797 images of 1×8×8."""

    def fill(folder: Path) -> None:
        succeeded(call(folder, "prepare", "output=digits.h5"))

    return once("digits", fill) / "digits.h5"


@pytest.fixture(scope="session")
def starts(digits, once) -> Path:
    """A folder whose starts/ has the initial distributions of all digits and of each class.

    There are fewer candidates than by default, because the default takes seconds.
    """

    def fill(folder: Path) -> None:
        few = ("start.components=[8,16]", "start.directions=[20]")
        for classes in ("false", "true"):
            succeeded(call(folder, "start", f"data={digits}", f"classes={classes}", *few))

    return once("starts", fill)


@pytest.fixture(scope="session")
def model(digits, starts, once) -> Path:
    """The folder of a small, hardly trained PSLD model, with the initial distributions of its
    dataset."""

    def fill(folder: Path) -> None:
        _train(digits, "process=psld", folder)
        shutil.copytree(starts, folder / "model", dirs_exist_ok=True)

    return once("psld", fill) / "model"


@pytest.fixture(scope="session")
def vp_sde_model(digits, once) -> Path:
    """The same without momentum."""
    return once("vp-sde", partial(_train, digits, "process=vp-sde")) / "model"


def _train(digits: Path, process: str, folder: Path) -> None:
    settings = (*TINY, process, f"data={digits}", "training.steps=30", "output=model")
    succeeded(call(folder, "train", *settings))


@pytest.fixture(scope="session")
def features(digits, once) -> Path:
    """The folder of a feature classifier, with reference features in `reference`."""

    def fill(folder: Path) -> None:
        data = (f"data={digits}", "metric.extractor.steps=20")
        succeeded(call(folder, "train_extractor", *data, "output=."))
        succeeded(call(folder, "reference", *data, "extractor=.", "output=reference"))

    return once("features", fill)


@pytest.fixture(scope="session")
def resolved(once) -> Path:
    """A folder whose cache has the demo's grid and the paper's."""

    def fill(folder: Path) -> None:
        with contextlib.chdir(folder):
            for name in ("demo", "paper"):
                load_grid(name)

    return once("grids", fill)


@pytest.fixture(scope="session")
def grids(resolved) -> dict[str, Grid]:
    with contextlib.chdir(resolved):
        return {name: load_grid(name) for name in ("demo", "paper")}
