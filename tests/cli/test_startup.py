"""Slow imports of commands: none before it is needed, because each costs 0.1 to 1.5 s."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands import succeeded

HYDRA = {"hydra", "omegaconf"}
SLOW = {
    *("torch", "torchvision", "torch_fidelity", "sklearn", "pandas", "scipy", "matplotlib"),
    *("wandb", "submitit", "snakemake", "numpy", "h5py", "PIL", *HYDRA),
}

RUN = f"""
import json, sys
from psld.commands.main import main
for line in sys.argv[1:]:
    sys.argv = ["psld", *line.split()]
    main()
    print("imported:", json.dumps([line, *sorted({SLOW!r} & set(sys.modules))]))
"""
"""Runs command lines one after the other; what one imports is still there after the next."""

UNTIL_WORK = f"""
import psld.commands.entry as entry
checked = entry.entry_point
entry.entry_point = lambda *how, **more: lambda main: checked(*how, **more)(lambda settings: None)
{RUN}"""
"""Checks the settings, and leaves out what the command then does."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory, resolved) -> Path:
    """A folder in which the demo's grid need not be resolved: that imports more."""
    folder = tmp_path_factory.mktemp("startup")
    (folder / ".cache").symlink_to(resolved / ".cache")
    return folder


def imported(folder: Path, code: str, *lines: str) -> dict[str, set[str]]:
    """The slow libraries that a process has imported after each command line."""
    run = [sys.executable, "-c", code, *lines]
    finished = subprocess.run(run, cwd=folder, capture_output=True, text=True, check=False)
    shown = re.findall(r"^imported: (.*)$", succeeded(finished).stdout, re.MULTILINE)
    found = {line: set(libraries) for line, *libraries in map(json.loads, shown)}
    assert list(found) == list(lines)
    return found


NOTHING: set[str] = set()
NUMBERS = {"torch", "numpy"}


@pytest.mark.parametrize(
    ("code", "needed"),
    [
        (
            RUN,
            {
                "tabulate": NOTHING,
                "plan list=cells": NOTHING,
                "plan list=figures": NOTHING,
                "page grid_name=demo output=page.html": {"PIL"},
                "prepare dataset=demo/digits output=digits.h5": {"numpy", "h5py", "PIL"},
            },
        ),
        (
            UNTIL_WORK,
            {
                "figure figure=nfe": NOTHING,
                "certify": NOTHING,
                "verify x.zip": NOTHING,
                "push x me/x": NOTHING,
                "plan": NOTHING,
                "launch -- train model=demo/cld data=x.h5": NOTHING,
                "wandb sync": HYDRA,
                "wandb dashboard": HYDRA,
                "likelihood model=x output=x.json": NUMBERS | HYDRA,
            },
        ),
        (
            UNTIL_WORK,
            {
                "train model=demo/cld data=x.h5": NUMBERS,
                "train_guide guide=demo/psld-0.02 data=x.h5": NUMBERS,
                "train_extractor features=demo/digits/fd-classifier data=x.h5": NUMBERS,
                "import_model model=demo/cld data=x.h5 checkpoint=x": NUMBERS,
                "reference features=demo/digits/fd-classifier data=x.h5": NUMBERS,
                "sample cell=demo/cld/em-quadratic-40": NUMBERS,
                "evaluate_cell cell=demo/cld/em-quadratic-40": NUMBERS,
            },
        ),
    ],
    ids=["works", "grids, then composes, then computes", "computes"],
)
def test_a_command_imports_what_it_needs(folder, code, needed):
    seen = imported(folder, code, *needed)
    for line, libraries in seen.items():
        assert libraries <= needed[line], line
    every = set().union(*needed.values())
    assert every & {"torch", "hydra"} <= set.union(*seen.values()), "an import is noticed"
