"""Shared inputs of tests, made once: the prepared digits, a model, an extractor."""

import gc
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

# These tests compare bits, which depend on the device. `pytest tests/gpu` sees the GPUs.
if not any(word.startswith("tests/gpu") for word in sys.argv):
    os.environ["CUDA_VISIBLE_DEVICES"] = ""

import pytest

from tests.commands import TINY, call, succeeded

# A shell starts what stands before `&` with Ctrl-C ignored, and so would all that tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)
# nohup does the same with SIGHUP.
signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_collection() -> None:
    """Imports leave no garbage. The search for it among all that they make takes long."""
    gc.disable()


def pytest_collection_finish() -> None:
    """What is imported stays to the end: exempt it from later searches."""
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session", autouse=True)
def _coarse_starts() -> Iterator[None]:
    """The start of samplers costs a second of each training; here fewer images and levels do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("psld.training.start.HELD_OUT", 32)
        patch.setattr("psld.training.start.LEVELS", 7)
        yield


@pytest.fixture(scope="session")
def digits(tmp_path_factory) -> Path:
    """The prepared digits: 1,797 images of 1×8×8."""
    folder = tmp_path_factory.mktemp("digits")
    succeeded(call(folder, "prepare", "output=digits.h5"))
    return folder / "digits.h5"


@pytest.fixture(scope="session")
def model(digits, tmp_path_factory) -> Path:
    """The folder of a small PSLD model, hardly trained."""
    return _train(digits, tmp_path_factory.mktemp("psld"), "process=psld")


@pytest.fixture(scope="session")
def vp_sde_model(digits, tmp_path_factory) -> Path:
    """The same without momentum."""
    return _train(digits, tmp_path_factory.mktemp("vp-sde"), "process=vp-sde")


def _train(digits: Path, folder: Path, process: str) -> Path:
    settings = (*TINY, process, f"data={digits}", "training.steps=30", "output=model")
    succeeded(call(folder, "train", *settings))
    return folder / "model"


@pytest.fixture(scope="session")
def features(digits, tmp_path_factory) -> Path:
    """The folder of a feature classifier and, in `reference`, of what samples are compared with."""
    folder = tmp_path_factory.mktemp("features")
    data = (f"data={digits}", "metric.extractor.steps=20")
    succeeded(call(folder, "train_extractor", *data, "output=."))
    succeeded(call(folder, "reference", *data, "extractor=.", "output=reference"))
    return folder
