"""The dataset settings that a prepared file implies, for commands with `data=FILE` alone."""

from pathlib import Path
from typing import Any

from psld.config.locations import config_file
from psld.config.settings import Settings, read_record
from psld.config.words import quoted
from psld.data.settings import DatasetSettings


class Described(Settings, extra="ignore"):
    """The part of a dataset's record that commands use."""

    settings: DatasetSettings
    digest: str


def read_description(path: Path) -> Described:
    """Read the record of a dataset's file. Raises UserError if it is missing or damaged."""
    wrong = f"{path}: not the record of a dataset; prepare it again (psld prepare)"
    return read_record(Described, path, wrong)


def described_dataset(path: Path) -> dict[str, Any]:
    """Return the dataset settings of a prepared file: those of its preparation.

    Without its record, they are a config's of the file's name, or what the file itself says. Raises
    UserError if the file is not a prepared dataset.
    """
    # Hydra and h5py are slow to import; most commands are given a dataset or a model.
    from psld.config.compose import compose_content
    from psld.data.store import ImageStore

    store, name, record = ImageStore.open(path), path.stem, path.with_suffix(".json")
    if record.exists():
        return read_description(record).settings.model_dump(mode="json")
    overrides = [f"dataset={name}"]
    if config_file("dataset", name) is None:
        overrides = [
            "dataset=folder",
            f"dataset.name={name}",
            f"dataset.channels={store.channels}",
            f"dataset.image_size={store.image_size}",
            f"dataset.num_classes={store.num_classes}",
            f"dataset.source.root={quoted(str(path))}",
        ]
    return compose_content("prepare", overrides, str(path))["dataset"]
