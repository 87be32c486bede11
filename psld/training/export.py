"""What a training made: kept in its run directory, published in the folder that was asked for.

Snakemake deletes a rule's outputs whenever it reruns the rule. The run directory keeps what took
days, so that such a rerun costs a copy. Imports no torch: launchers publish too.
"""

import shutil
from pathlib import Path

from psld.files import atomic_path, read_json

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
    manifest = read_json(export_folder(run) / FILES[-1])
    there = all((output / name).exists() for name in FILES)
    if there and read_json(output / FILES[-1]) == manifest:
        return
    for name in FILES:
        with atomic_path(output / name) as partial:
            shutil.copyfile(export_folder(run) / name, partial)
