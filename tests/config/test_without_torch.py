"""The packages for Snakemake, launchers and help, which never import torch."""

import subprocess
import sys
from pathlib import Path

import pytest

import psld

PACKAGE = Path(psld.__file__).parent


def modules_in(pattern: str) -> list[str]:
    """The modules of the package whose files fit a pattern."""
    files = sorted(path.relative_to(PACKAGE.parent) for path in PACKAGE.glob(pattern))
    return [".".join(file.with_suffix("").parts).removesuffix(".__init__") for file in files]


SETTINGS = [*modules_in("*/settings.py"), "psld.diffusion.samplers"]


def heavy_after(code: str, *heavy: str) -> list[str]:
    """Which of these modules a new interpreter has imported after it has run the code."""
    look = f"{code}; import sys; print(*sorted({set(heavy)!r} & set(sys.modules)))"
    return subprocess.check_output([sys.executable, "-c", look], text=True).split()


@pytest.mark.parametrize("room", ["grid", "cluster", "config"])
def test_a_whole_room(room):
    """A torch import costs seconds in every one of these processes."""
    modules = modules_in(f"{room}/*.py")
    assert len(modules) > 3
    assert heavy_after(f"import {', '.join(modules)}", "torch") == []


def test_settings():
    heavy = ("torch", "torchvision", "numpy", "h5py", "PIL", "sklearn", "matplotlib", "wandb")
    assert heavy_after(f"import {', '.join(SETTINGS)}", *heavy) == []


def test_every_room_with_settings_is_looked_at():
    rooms = {module.split(".")[1] for module in SETTINGS}
    assert rooms >= {"data", "diffusion", "networks", "training", "sampling", "metrics", "cluster"}


def test_commands_that_compute_nothing():
    names = ("certify", "launch", "plan", "prepare", "tabulate", "wandb", "main")
    modules = ", ".join(f"psld.commands.{name}" for name in names)
    assert heavy_after(f"import {modules}", "torch", "matplotlib", "wandb") == []


def test_the_package_itself():
    assert heavy_after("import psld", "torch", "numpy", "hydra") == []


def test_a_module_that_brings_torch_is_noticed():
    assert heavy_after("import psld.training.model", "torch") == ["torch"]
