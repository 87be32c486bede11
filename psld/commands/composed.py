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

from psld.commands.frame import Frame
from psld.commands.sweeps import FLAGS, begin_job, check_jobs, failure_of
from psld.config.compose import compose_content, content_of, refusing, store_based
from psld.config.locations import CONFIGS
from psld.config.settings import Settings, parse
from psld.config.words import quoted, value_in, without
from psld.utils.errors import UserError

PLACES = {"data", "extractor", "output"}
"""Settings that follow from names, such as data/NAME.h5: the words may change the names."""

# configs/hydra/launcher overrides the launchers' own configs, which Hydra 1.3 merges in.
warnings.filterwarnings("ignore", r"\s*'hydra/launcher/submitit_\w+' is validated against")


def composed_settings(frame: Frame, words: list[str]) -> Settings:
    """Return the settings that Hydra composes from words without flags."""
    config, overrides = config_of(frame, words)
    return parse(frame.kind, compose_content(config, overrides, frame.where), frame.where)


def run_with_flags(frame: Frame, main: Callable[[Any], Any], words: list[str]) -> None:
    """Run a command through `hydra.main`, which reads flags and settings of its own."""
    flags, overrides = split_flags(words)
    is_sweep = not FLAGS.isdisjoint(flags)
    config, overrides = config_of(frame, overrides, is_sweep)

    def settings_of(config: DictConfig) -> Settings:
        return parse(frame.kind, content_of(config, frame.where), frame.where)

    failures: list[Exception] = []
    swept: list[str] = []

    @hydra.main(config_path=str(CONFIGS), config_name=config, version_base="1.3")
    def hydra_main(config: DictConfig) -> None:
        sweeps = HydraConfig.get().mode == RunMode.MULTIRUN
        job = begin_job(config, swept) if sweeps else None
        # Collect errors: Hydra adds a line of its own to an error that passes through it.
        try:
            main(settings_of(config))
        except Exception as error:
            failures.append(failure_of(job, error) if sweeps else error)

    # Without this, Hydra prints a summary and exits with 1; its errors are user errors.
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    sys.argv[1:] = [*flags, *overrides]
    with refusing(frame.where):
        if is_sweep and FLAGS.issuperset(flags):
            swept[:] = check_jobs(config, overrides, settings_of)
        hydra_main()
    if swept and failures:
        raise type(failures[0])(f"{len(failures)} of the sweep's jobs failed")
    if failures:
        raise failures[0]


def config_of(frame: Frame, overrides: list[str], is_sweep: bool = False) -> tuple[str, list[str]]:
    """Return the name of the config to compose, and the overrides for it.

    The config has the values of the record that the words name, or the description of the dataset
    in `data=FILE`.
    """
    bare = [word for word in overrides if frame.is_bare(word)]
    named = [f"{frame.bare}={quoted(word)}" for word in bare]
    overrides = [*named, *(word for word in overrides if word not in bare)]
    if record := frame.record_in(overrides):
        key, name = record
        if frame.records[key].fixed:
            raise UserError(f"{key}={name}: the grid decides everything; leave {key} out")
        frame.changes(overrides)  # Refuses what only the grid decides.
        content = frame.load_record(overrides).settings.model_dump(mode="json")
        places = PLACES & set(frame.records[key].run)
        base = {key: value for key, value in content.items() if key not in places or value is None}
        if is_sweep:  # A sweep that starts from a grid's model is not part of the grid.
            base.pop("grid_name", None)
        overrides = without(overrides, key, "record")
    else:
        base = described_by(overrides) if "dataset" in frame.kind.model_fields else {}
    return store_based(frame.name, base, overrides, frame.where) if base else frame.name, overrides


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
    flags = list(words)
    for override in parsed.overrides:
        flags.remove(override)
    return flags, parsed.overrides


def _refuse(message: str) -> NoReturn:
    raise UserError(message)
