"""Slow imports of commands: none before it is needed, because each costs 0.1 to 1.5 s."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands import call, succeeded

SLOW = {
    *("torch", "torchvision", "torch_fidelity", "sklearn", "pandas", "scipy", "matplotlib"),
    *("wandb", "submitit", "snakemake", "numpy", "h5py", "PIL"),
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
import psld.commands.entry as entry, psld.commands.launch as launch
launch.launch = lambda settings: None
checked = entry.entry_point
entry.entry_point = lambda *how, **more: lambda main: checked(*how, **more)(lambda settings: None)
{RUN}"""
"""Composes and checks the settings, and leaves out what the command then does."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder in which the demo's grid need not be composed: that imports more."""
    folder = tmp_path_factory.mktemp("startup")
    succeeded(call(folder, "plan", "list=cells"))
    return folder


def imported(folder: Path, code: str, *lines: str) -> dict[str, set[str]]:
    """The slow libraries that a process has imported after each command line."""
    run = [sys.executable, "-c", code, *lines]
    finished = subprocess.run(run, cwd=folder, capture_output=True, text=True, check=False)
    shown = re.findall(r"^imported: (.*)$", succeeded(finished).stdout, re.MULTILINE)
    found = {line: set(libraries) for line, *libraries in map(json.loads, shown)}
    assert list(found) == list(lines)
    return found


@pytest.mark.parametrize(
    ("lines", "needed"),
    [
        (["prepare dataset=digits"], {"numpy", "h5py", "PIL"}),
        (["page grid_name=demo output=page.html"], {"PIL"}),
        (
            [
                "tabulate grid_name=demo",
                "plan grid_name=demo list=cells",
                "plan grid_name=demo list=figures",
                "wandb track grid_name=demo wandb.mode=disabled",
            ],
            set(),
        ),
    ],
    ids=["prepare", "page", "others"],
)
def test_what_computes_nothing_runs_without(folder, lines, needed):
    for line, libraries in imported(folder, RUN, *lines).items():
        assert libraries <= needed, line


@pytest.mark.parametrize(
    ("lines", "needed"),
    [
        (
            [
                "train model=demo/cld data=x.h5",
                "train_guide guide=demo/psld-0.02 data=x.h5",
                "train_extractor dataset=digits metric=fd-classifier data=x.h5",
                "import model=demo/cld data=x.h5 checkpoint=x",
                "reference dataset=digits metric=fid data=x.h5",
                "sample cell=demo/cld/em-uniform-40",
                "evaluate cell=demo/cld/em-uniform-40",
                "likelihood model=x output=x.json",
            ],
            {"torch", "numpy"},
        ),
        (
            [
                "design process=cld search.kappa=[0.01,0.04]",
                "figure figure=nfe",
                "certify",
                "verify x.zip",
                "plan",
                "launch -- train model=demo/cld data=x.h5",
                "wandb track",
                "wandb sync",
                "wandb dashboard",
            ],
            set(),
        ),
    ],
    ids=["computes", "others"],
)
def test_until_its_work_begins(folder, lines, needed):
    for line, libraries in imported(folder, UNTIL_WORK, *lines).items():
        assert libraries <= needed, line


def test_an_import_would_be_noticed(folder):
    line = "sample model=x output=x"
    assert "torch" in imported(folder, UNTIL_WORK, line)[line]
