"""Guides for several tests, made once with little training."""

from pathlib import Path

import pytest

from tests.commands import TINY, call, succeeded


@pytest.fixture(scope="session")
def conditional_model(digits, once) -> Path:
    """The folder of a small class-conditional PSLD model."""

    def fill(folder: Path) -> None:
        settings = (*TINY, "process=psld", "training.label_dropout=0.2", "training.steps=30")
        succeeded(call(folder, "train", *settings, f"data={digits}", "output=model"))

    return once("conditional", fill) / "model"


@pytest.fixture(scope="session")
def guide(digits, once) -> Path:
    """The folder of a small noise-conditional guide for PSLD."""

    def fill(folder: Path) -> None:
        settings = (*TINY, "training.steps=30", f"data={digits}", "output=guide")
        succeeded(call(folder, "train_guide", *settings))

    return once("guide", fill) / "guide"
