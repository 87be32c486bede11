"""What a training made: kept in its run directory, published in the folder that was asked for.

Snakemake deletes a rule's outputs whenever it reruns the rule. The run directory keeps what took
days, so that such a rerun costs a copy. Imports no torch: launchers publish too.
"""

import shutil
from filecmp import cmp
from pathlib import Path

from psld.utils.files import atomic_path

FILES = ("weights.safetensors", "history.json", "manifest.json")
"""The manifest comes last: where it is, the others are."""


def export_folder(run: Path) -> Path:
    """Where a run directory keeps what the training made."""
    return run / "model"


def is_exported(run: Path) -> bool:
    """Whether the training of this run directory has made its files."""
    return (export_folder(run) / FILES[-1]).exists()


def publish(run: Path, output: Path) -> None:
    """Copy the files to the output folder, unless they are there already."""
    made = export_folder(run)
    if all((output / name).exists() and cmp(made / name, output / name, False) for name in FILES):
        return
    for name in FILES:
        with atomic_path(output / name) as partial:
            shutil.copyfile(made / name, partial)
