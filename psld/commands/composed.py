"""Commands whose settings Hydra composes: overrides, flags, and sweeps (`--multirun`)."""

import os
import re
import sys
import traceback
import warnings
from argparse import Action, ArgumentParser
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig

from psld.commands.command import Command
from psld.config.compose import compose_content, content_of, refusing, store_based
from psld.config.locations import CONFIGS, config_file
from psld.config.messages import explained, text_of
from psld.config.settings import Settings, parse, quoted, value_in, without
from psld.utils.errors import PSLDError, RunError, UserError
from psld.utils.files import make_private

FLAGS = {"--multirun", "-m"}

# Python 3.14 checks the help of each flag when it is added, and refuses Hydra 1.3's
# --shell-completion, whose help is no string until it is printed.
if check_help := getattr(ArgumentParser, "_check_help", None):

    def _check_strings(parser: ArgumentParser, action: Action) -> None:
        if isinstance(action.help, str):
            check_help(parser, action)

    ArgumentParser._check_help = _check_strings

PLACES = {"data", "output"}
"""Settings that follow from names, such as data/NAME.h5: the words may change the names. Where no
word chooses a dataset, as for samples, `data` is the record's."""

# Hydra 1.3 merges the launchers' own configs, of the same names, into configs/hydra/launcher.
warnings.filterwarnings("ignore", r"\s*'hydra/launcher/submitit_\w+' is validated against")


def composed_settings(command: Command, words: list[str]) -> Settings:
    """Return the settings that Hydra composes from words without flags."""
    config, overrides = config_of(command, words)
    content = compose_content(config, overrides, command.where)
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
    """Run a command through `hydra.main`, which reads flags and settings of its own."""
    flags, overrides = split_flags(words)
    is_sweep = not FLAGS.isdisjoint(flags)
    config, overrides = config_of(command, overrides, is_sweep)

    failures: list[Exception] = []
    swept: list[str] = []

    @hydra.main(config_path=str(CONFIGS), config_name=config, version_base="1.3")
    def hydra_main(config: DictConfig) -> float | None:
        sweeps, job = HydraConfig.get().mode == RunMode.MULTIRUN, ""
        if sweeps:
            chosen = HydraConfig.get()
            searched = dict.fromkeys([*(chosen.sweeper.get("params") or {}), *swept])
            job = name_job(config, chosen.overrides.task, list(searched))
            print(f"{job}:", flush=True)
        # Collect errors: Hydra adds a line of its own to an error that passes through it.
        try:
            # A sweeper that optimizes takes what main returns: a loss, a metric.
            return main(parse(command.kind, content_of(config, command.where), command.where))
        except Exception as error:
            failures.append(failure_of(job, error) if sweeps else error)
        return None

    # Without this, Hydra prints a summary and exits with 1; its errors are user errors.
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    sys.argv[1:] = [*flags, *overrides]
    with refusing(command.where):
        if is_sweep:
            swept[:] = swept_keys(overrides)
        hydra_main()
    if is_sweep and failures:
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
    named = [f"{key}={quoted(word)}" for key, word in command.of_bare(bare).items()]
    overrides = [*named, *(word for word in overrides if word not in bare)]
    if name := command.record_in(overrides):
        key = command.record
        if not command.changeable:
            raise UserError(f"{key}={name}: the grid decides everything; leave {key} out")
        content = command.load_record(name, overrides).settings.model_dump(mode="json")
        places = PLACES if "dataset" in content else {"output"}
        base = {key: value for key, value in content.items() if key not in places}
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
    from psld.data.store import described_dataset

    return {"dataset": described_dataset(Path(data.strip("'\"")))}


def split_flags(words: list[str]) -> tuple[list[str], list[str]]:
    """Return flags and overrides; refuse wrong flags in one line, for which Hydra prints its usage.

    Refused, too, are `--experimental-rerun`, which reads a pickle, and `--package` without `--cfg`,
    for which Hydra takes the setting after it in silence.
    """
    parser = get_args_parser()
    parser.error = _refuse
    # Hydra reads flags before overrides only.
    words = sorted(words, key=lambda word: "=" in word and not word.startswith("-"))
    parsed = parser.parse_args(words)
    if parsed.experimental_rerun is not None:
        _refuse("--experimental-rerun is not supported; give the overrides again")
    if parsed.package is not None and parsed.cfg is None:
        _refuse(f"--package (-p) is for --cfg; a setting has no flag: {parsed.package}")
    return [word for word in words if word not in parsed.overrides], parsed.overrides


def _refuse(message: str) -> NoReturn:
    raise UserError(message)


# -- sweeps ---------------------------------------------------------------------------------------


def swept_keys(overrides: Iterable[str]) -> list[str]:
    """Return the keys that a sweep sweeps over."""
    words = [word for word in overrides if not word.startswith("hydra")]
    parsed = OverridesParser.create().parse_overrides(words)
    return [override.get_key_element() for override in parsed if override.is_sweep_override()]


def name_job(config: DictConfig, overrides: Iterable[str], swept: list[str]) -> str:
    """Name a training after its swept values, group the trainings of the sweep, return the name.

    A swept value that equals the name (`process=psld`) is not repeated.
    """
    name = config.get("name") or ""
    values = dict(override.partition("=")[::2] for override in overrides)
    labels = [f"{_leaf(key)}-{_plain(values[key])}" for key in swept if values[key] != name]
    name = "-".join([name, *labels] if name else labels)
    if "name" in config:
        config.name = name
    if "grid_name" in config and "grid_name" not in values and swept:
        config.grid_name = "-".join(["sweep", *map(_leaf, swept)])
    return name or "job"


def failure_of(name: str, error: Exception) -> PSLDError:
    """Print why a job failed, and return an error for other processes, without a traceback.

    A job in a process of its own raises this error, and Hydra passes it to the process that waits
    for the sweep. The other jobs go on, unless a signal ended this one.
    """
    exit_code, line = explained(error) or (None, text_of(error))
    if exit_code is None:
        traceback.print_exception(error)
    else:
        print(f"error: {name}: {line}", file=sys.stderr, flush=True)
        if exit_code >= 128:
            # Do not return an error: Hydra and submitit would take it as the result of a job that
            # Slurm has preempted and that goes on.
            sys.exit(exit_code)
    kind = UserError if exit_code == UserError.exit_code else RunError
    failure = kind(f"a job of the sweep failed: {name}: {line}")
    if "SUBMITIT_EXECUTOR" in os.environ:
        raise failure from None
    return failure


class Announcement(Callback):
    """A Hydra callback that makes and prints the folder of the jobs while a launcher waits."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        launcher = config.hydra.launcher
        if "submitit_folder" in launcher:
            make_private(Path(config.hydra.sweep.dir))  # Pickles in it are run.
            on_slurm = launcher._target_.endswith("SlurmLauncher")
            stay = "; Ctrl-C leaves them in the queue" if on_slurm else ""
            print(f"the output of the sweep's jobs: {config.hydra.sweep.dir}{stay}", flush=True)


def _leaf(key: str) -> str:
    return re.split(r"[.@/]", key)[-1].lstrip("+")


def _plain(value: str) -> str:
    """Return a value as a part of a file name that Hydra accepts without quotes."""
    return re.sub(r"[^A-Za-z0-9.-]+", "_", value.replace("+", "")).strip("_")
