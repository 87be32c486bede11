"""Sweeps: `--multirun`, by Hydra's sweepers and launchers.

This is the one file that depends on the inside of Hydra 1.3; tests/cli/test_sweeps.py says when it
has changed.
"""

import os
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from psld.commands.command import Command
from psld.config.compose import content_of, refusing
from psld.config.locations import CONFIGS
from psld.config.settings import parse
from psld.utils.errors import PSLDError, RunError, UserError, explained, text_of
from psld.utils.files import make_private

# Hydra 1.3 merges the launchers' own configs, of the same names, into configs/hydra/launcher.
warnings.filterwarnings("ignore", r"\s*'hydra/launcher/submitit_\w+' is validated against")


def sweep(command: Command, main: Callable[[Any], Any], overrides: list[str]) -> None:
    """Run a command for each combination of the values that the overrides sweep over."""
    failures: list[PSLDError] = []

    def run_job(config: DictConfig) -> float | None:
        chosen = HydraConfig.get()
        searched = dict.fromkeys([*(chosen.sweeper.get("params") or {}), *swept])
        job = name_job(config, chosen.overrides.task, list(searched))
        print(f"{job}:", flush=True)
        # Collect errors: Hydra adds a line of its own to an error that passes through it.
        try:
            # A sweeper that optimizes takes what main returns: a loss, a metric.
            return main(parse(command.kind, content_of(config, command.where), command.where))
        except Exception as error:
            failures.append(failure_of(job, error))
        return None

    with refusing(command.where), initialize_config_dir(str(CONFIGS), command.name, "1.3"):
        swept = swept_keys(overrides)
        GlobalHydra.instance().hydra.multirun(command.name, run_job, overrides)
    if failures:
        raise type(failures[0])(f"{len(failures)} of the sweep's jobs failed")


def swept_keys(overrides: Iterable[str]) -> list[str]:
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
            from psld.cluster.pickles import read_own_pickles_only

            make_private(Path(config.hydra.sweep.dir))
            read_own_pickles_only()
            on_slurm = launcher._target_.endswith("SlurmLauncher")
            stay = "; Ctrl-C leaves them in the queue" if on_slurm else ""
            print(f"the output of the sweep's jobs: {config.hydra.sweep.dir}{stay}", flush=True)


def _leaf(key: str) -> str:
    return re.split(r"[.@/]", key)[-1].lstrip("+")


def _plain(value: str) -> str:
    """Return a value as a part of a file name that Hydra accepts without quotes."""
    return re.sub(r"[^A-Za-z0-9.-]+", "_", value.replace("+", "")).strip("_")
