"""Commands whose settings Hydra composes: overrides, flags, and sweeps (`--multirun`)."""

import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from psld.commands.command import Command
from psld.commands.sweeps import FLAGS, begin_job, failure_of, swept_keys
from psld.config.compose import compose_content, content_of, refusing, store_based
from psld.config.locations import CONFIGS
from psld.config.settings import Settings, parse
from psld.config.words import quoted, value_in, without
from psld.utils.errors import UserError

PLACES = {"data", "output"}
"""Settings that follow from names, such as data/NAME.h5: the words may change the names."""

# configs/hydra/launcher overrides the launchers' own configs, which Hydra 1.3 merges in.
warnings.filterwarnings("ignore", r"\s*'hydra/launcher/submitit_\w+' is validated against")


def composed_settings(command: Command, words: list[str]) -> Settings:
    """Return the settings that Hydra composes from words without flags."""
    config, overrides = config_of(command, words)
    return parse(command.kind, compose_content(config, overrides, command.where), command.where)


def run_with_flags(command: Command, main: Callable[[Any], Any], words: list[str]) -> None:
    """Run a command through `hydra.main`, which reads flags and settings of its own."""
    flags, overrides = split_flags(words)
    is_sweep = not FLAGS.isdisjoint(flags)
    config, overrides = config_of(command, overrides, is_sweep)

    failures: list[Exception] = []
    swept: list[str] = []

    @hydra.main(config_path=str(CONFIGS), config_name=config, version_base="1.3")
    def hydra_main(config: DictConfig) -> None:
        sweeps = HydraConfig.get().mode == RunMode.MULTIRUN
        job = begin_job(config, swept) if sweeps else None
        # Collect errors: Hydra adds a line of its own to an error that passes through it.
        try:
            main(parse(command.kind, content_of(config, command.where), command.where))
        except Exception as error:
            failures.append(failure_of(job, error) if sweeps else error)

    # Without this, Hydra prints a summary and exits with 1; its errors are user errors.
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    sys.argv[1:] = [*flags, *overrides]
    with refusing(command.where):
        if is_sweep:
            swept[:] = swept_keys(overrides)
        hydra_main()
    if swept and failures:
        raise type(failures[0])(f"{len(failures)} of the sweep's jobs failed")
    if failures:
        raise failures[0]


def config_of(
    command: Command, overrides: list[str], is_sweep: bool = False
) -> tuple[str, list[str]]:
    """Return the name of the config to compose, and the overrides for it.

    The config has the values of the record that the words name, or the description of the dataset
    in `data=FILE`.
    """
    bare = [word for word in overrides if command.is_bare(word)]
    named = [f"{command.bare}={quoted(word)}" for word in bare]
    overrides = [*named, *(word for word in overrides if word not in bare)]
    if record := command.record_in(overrides):
        key, name = record
        if not command.records[key].changeable:
            raise UserError(f"{key}={name}: the grid decides everything; leave {key} out")
        content = command.load_record(key, name, overrides).settings.model_dump(mode="json")
        base = {key: value for key, value in content.items() if key not in PLACES}
        if is_sweep:  # A sweep that starts from a grid's model is not part of the grid.
            base.pop("grid_name", None)
        overrides = without(overrides, key, "record")
    else:
        base = described_by(overrides) if "dataset" in command.kind.model_fields else {}
    if not base:
        return command.name, overrides
    return store_based(command.name, base, overrides, command.where), overrides


def described_by(overrides: list[str]) -> dict[str, Any]:
    """Return the dataset's settings that `data=FILE` implies, if no dataset is chosen."""
    data = value_in(overrides, "data")
    if data is None or value_in(overrides, "dataset") is not None:
        return {}
    # h5py takes a tenth of a second to import; most commands are given a dataset.
    from psld.data.description import described_dataset

    return {"dataset": described_dataset(Path(data.strip("'\"")))}


def split_flags(words: list[str]) -> tuple[list[str], list[str]]:
    """Return flags and overrides; refuse wrong flags in one line, for which Hydra prints its usage.

    `--experimental-rerun` is refused, too: it reads a pickle.
    """
    parser = get_args_parser()
    parser.error = _refuse
    # Hydra reads flags before overrides only.
    words = sorted(words, key=lambda word: "=" in word and not word.startswith("-"))
    parsed = parser.parse_args(words)
    if parsed.experimental_rerun is not None:
        _refuse("--experimental-rerun is not supported; give the overrides again")
    return [word for word in words if word not in parsed.overrides], parsed.overrides


def _refuse(message: str) -> NoReturn:
    raise UserError(message)
