"""The dataset settings that a prepared file implies, for commands with `data=FILE` alone."""

from pathlib import Path

from psld.config.locations import config_file
from psld.config.overrides import quoted, take
from psld.config.settings import Settings, read_record


class Described(Settings, extra="ignore"):
    """The part of a dataset's record that commands use."""

    dataset: str
    digest: str


def read_description(path: Path) -> Described:
    """Read the record of a dataset's file. Raises UserError if it is missing or damaged."""
    wrong = f"{path}: not the record of a dataset; prepare it again (psld prepare)"
    return read_record(Described, path, wrong)


def expand_data(arguments: list[str]) -> list[str]:
    """Add the dataset settings of the file `data=FILE`, unless a dataset or a model is named.

    A dataset that has a config of its own gets that config. The other overrides come later and
    win. Raises UserError if the file is not a prepared dataset.
    """
    given, _ = take("data", arguments)
    named = any(a.startswith(("dataset=", "model=", "guide=", "cell=")) for a in arguments)
    if given is None or named:
        return arguments
    # h5py takes a tenth of a second to import; most commands are given a dataset or a model.
    from psld.data.store import ImageStore

    path = Path(given.strip("'\""))
    store = ImageStore.open(path)
    record = path.with_suffix(".json")
    name = read_description(record).dataset if record.exists() else path.stem
    if config_file("dataset", name):
        return [f"dataset={name}", *arguments]
    return [
        "dataset=folder",
        f"dataset.name={name}",
        f"dataset.channels={store.channels}",
        f"dataset.image_size={store.image_size}",
        f"dataset.num_classes={store.num_classes}",
        f"dataset.source.root={quoted(str(path))}",
        *arguments,
    ]
