"""Hardly trained models that several tests share."""

import shutil
from pathlib import Path

import pytest

from tests.commands import TINY, call, succeeded


@pytest.fixture(scope="session")
def conditional_model(digits, starts, once) -> Path:
    """The folder of a small class-conditional PSLD model, with the initial distributions of its
    dataset."""

    def fill(folder: Path) -> None:
        settings = (*TINY, "process=psld", "training.label_dropout=0.2", "training.steps=30")
        succeeded(call(folder, "train", *settings, f"data={digits}", "output=model"))
        shutil.copytree(starts, folder / "model", dirs_exist_ok=True)

    return once("conditional", fill) / "model"


@pytest.fixture(scope="session")
def guide(digits, once) -> Path:
    """The folder of a small noise-conditional guide for PSLD."""

    def fill(folder: Path) -> None:
        settings = (*TINY, "training.steps=30", f"data={digits}", "output=guide")
        succeeded(call(folder, "train_guide", *settings))

    return once("guide", fill) / "guide"
