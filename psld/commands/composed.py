"""Commands whose settings Hydra composes: from words, over those of a grid's record."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from psld.commands.command import Command
from psld.config.compose import (
    compose_content,
    compose_whole,
    name_dataset,
    over,
    own_part,
    refusing,
)
from psld.config.locations import config_file
from psld.config.settings import Settings, parse, quoted, value_in, without
from psld.grid.cache import words_of
from psld.utils.errors import UserError


def composed_settings(command: Command, words: list[str]) -> Settings:
    """Return the settings that Hydra composes from words without flags."""
    overrides = overrides_of(command, words)
    content = compose_content(command.name, overrides, command.where)
    try:
        return parse(command.kind, content, command.where)
    except UserError as error:  # The chosen config has the unknown key, unless a word adds it.
        for group, _, name in (word.partition("=") for word in overrides):
            folder, _, place = group.rpartition("@")
            is_its_key = f"unknown key {place}." in str(error) and "+" not in "".join(overrides)
            if is_its_key and config_file(folder or place, name):
                raise UserError(f"configs/{folder or place}/{name}.yaml: {error}") from None
        raise


def run_with_flags(command: Command, main: Callable[[Any], Any], words: list[str]) -> None:
    """Run a command with `--cfg job`, which prints its settings, or `--multirun`, a sweep."""
    flags, overrides = split_flags(words)
    if "--multirun" in flags:
        from psld.commands.sweep import sweep

        sweep(command, main, overrides_of(command, overrides, is_sweep=True))
        return
    if hydra := [word for word in overrides if word.startswith("hydra")]:
        raise UserError(f"{hydra[0]}: a setting of sweeps; give --multirun, too")
    with refusing(command.where):
        config = compose_whole(command.name, overrides_of(command, overrides), command.where)
        content = own_part(config)
    print(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), end="")


def overrides_of(command: Command, words: list[str], is_sweep: bool = False) -> list[str]:
    """Return the overrides of a command's config.

    The words come after those of the grid whose record they name, or after the dataset that is
    described next to `data=FILE`.
    """
    bare = [word for word in words if command.is_bare(word)]
    named = [f"{key}={quoted(word)}" for key, word in command.of_bare(bare).items()]
    words = [*named, *(word for word in words if word not in bare)]
    if name := command.record_in(words):
        if not command.changeable:
            key = command.record
            raise UserError(f"{key}={name}: the grid decides everything; leave {key} out")
        grids = words_of(command.record, name)
        if is_sweep:  # A sweep that starts from a grid's model is not part of the grid.
            grids = without(grids, "grid_name")
        return over(grids, without(words, command.record))
    data = value_in(words, "data")
    is_described = "dataset" in command.kind.model_fields and value_in(words, "dataset") is None
    if data is None or not is_described:
        return words
    # h5py takes a tenth of a second to import; most commands are given a dataset.
    from psld.data.store import described_dataset

    return [name_dataset(described_dataset(Path(data.strip("'\"")))), *words]


def split_flags(words: list[str]) -> tuple[set[str], list[str]]:
    """Return the flags and the other words. Raises UserError for a flag that there is not."""
    flags, others = set(), []
    words = iter(words)
    for word in words:
        if not word.startswith("-"):
            others.append(word)
        elif word in ("--multirun", "-m"):
            flags.add("--multirun")
        elif word in ("--cfg", "-c") and next(words, "") == "job":
            flags.add("--cfg")
        else:
            raise UserError(f"{word}: no such flag; there are --help, --cfg job and --multirun")
    return flags, others
