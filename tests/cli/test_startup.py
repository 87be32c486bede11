"""Slow imports of commands: none before it is needed, because each costs 0.1 to 1.5 s."""

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
import sys
from psld.commands.main import main
main()
print("imported:", *sorted({SLOW!r} & set(sys.modules)))
"""

UNTIL_WORK = f"""
import psld.commands.entry as entry
checked = entry.entry_point
entry.entry_point = lambda *how, **more: lambda main: checked(*how, **more)(lambda settings: None)
{RUN}"""
"""Composes and checks the settings, and leaves out what the command then does."""

COMPUTES = {"torch", "numpy"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder in which the demo's grid need not be composed: that imports more."""
    folder = tmp_path_factory.mktemp("startup")
    succeeded(call(folder, "plan", "list=cells"))
    return folder


def imported(folder: Path, code: str, words: list[str]) -> set[str]:
    """The slow libraries that a process has imported at its end."""
    run = [sys.executable, "-c", code, *words]
    finished = subprocess.run(run, cwd=folder, capture_output=True, text=True, check=False)
    return set(succeeded(finished).stdout.rpartition("imported:")[2].split())


@pytest.mark.parametrize(
    ("words", "needed"),
    [
        ("prepare dataset=digits", {"numpy", "h5py", "PIL"}),
        ("tabulate grid_name=demo", set()),
        ("page grid_name=demo output=page.html", {"PIL"}),
        ("plan grid_name=demo list=cells", set()),
        ("plan grid_name=demo list=figures", set()),
        ("wandb track grid_name=demo wandb.mode=disabled", set()),
    ],
)
def test_what_computes_nothing_runs_without(folder, words, needed):
    assert imported(folder, RUN, words.split()) <= needed


@pytest.mark.parametrize(
    ("words", "needed"),
    [
        ("train model=demo/cld data=x.h5", COMPUTES),
        ("train_guide guide=demo/psld-0.02 data=x.h5", COMPUTES),
        ("train_extractor dataset=digits metric=fd-classifier data=x.h5", COMPUTES),
        ("import model=demo/cld data=x.h5 checkpoint=x", COMPUTES),
        ("reference dataset=digits metric=fid data=x.h5", COMPUTES),
        ("sample cell=demo/cld/em-uniform-40", COMPUTES),
        ("evaluate cell=demo/cld/em-uniform-40", COMPUTES),
        ("likelihood model=x output=x.json", COMPUTES),
        ("design process=cld search.kappa=[0.01,0.04]", set()),
        ("figure figure=nfe", set()),
        ("certify", set()),
        ("verify x.zip", set()),
        ("plan", set()),
        ("launch -- train model=demo/cld data=x.h5", set()),
        ("wandb track", set()),
        ("wandb sync", set()),
        ("wandb dashboard", set()),
    ],
)
def test_until_its_work_begins(folder, words, needed):
    assert imported(folder, UNTIL_WORK, words.split()) <= needed


def test_an_import_would_be_noticed(folder):
    assert "torch" in imported(folder, UNTIL_WORK, ["sample", "model=x", "output=x"])
