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


@pytest.fixture(scope="module")
def folder(tmp_path_factory, resolved) -> Path:
    """A folder in which the demo's grid need not be resolved: that imports more."""
    folder = tmp_path_factory.mktemp("startup")
    (folder / ".cache").symlink_to(resolved / ".cache")
    return folder


NEEDED: dict[str, set[str]] = {
    "tabulate": set(),
    "plan list=cells": set(),
    "plan list=figures": set(),
    "page grid_name=demo output=page.html": {"PIL"},
    "prepare dataset=demo/digits output=digits.h5": {"numpy", "h5py", "PIL"},
}


def test_a_command_imports_what_it_needs(folder):
    run = [sys.executable, "-c", RUN, *NEEDED]
    finished = subprocess.run(run, cwd=folder, capture_output=True, text=True, check=False)
    shown = re.findall(r"^imported: (.*)$", succeeded(finished).stdout, re.MULTILINE)
    found = {line: set(libraries) for line, *libraries in map(json.loads, shown)}
    assert list(found) == list(NEEDED)
    for line, libraries in found.items():
        assert libraries <= NEEDED[line], line
    assert "numpy" in found["prepare dataset=demo/digits output=digits.h5"], "it is noticed"
