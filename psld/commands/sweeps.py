"""Sweeps (`--multirun`): what their jobs are called, whether all of them can run, how each ends.

The jobs of a sweep are composed once before the first one starts, and again in each of them.
"""

import os
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import product
from typing import Any

from hydra import compose
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from psld.config.compose import answering_resolvers, configs, without_hydra
from psld.config.messages import exit_code_of, one_line
from psld.utils.errors import PSLDError, RunError, UserError

FLAGS = {"--multirun", "-m"}


def is_sweep(given: list[str]) -> bool:
    """Whether the command line asks for a sweep."""
    return not FLAGS.isdisjoint(given)


def check_jobs(command: str, given: list[str], check: Callable[[DictConfig], Any]) -> list[str]:
    """The keys that a sweep sweeps over, once all of its jobs are checked; none without a sweep.

    Args:
        check: gives the settings of a job's config, and raises UserError where they are wrong.

    Raises:
        UserError: naming the job that is wrong, or two that would write to the same place.
    """
    # With other flags Hydra prints something, or reads other configs.
    if not is_sweep(given) or any(w[:1] == "-" and w not in FLAGS for w in given):
        return []
    own = [word for word in given if word not in FLAGS and not word.startswith("hydra")]
    with configs():
        parsed = OverridesParser.create(GlobalHydra.instance().config_loader())
        overrides = parsed.parse_overrides(own)
        swept = [o.get_key_element() for o in overrides if o.is_sweep_override()]
        writers: dict[str, str] = {}
        for job in product(*map(_choices, overrides)):
            whole = compose(command, list(job), return_hydra_config=True)
            with answering_resolvers(whole):
                config = without_hydra(whole)
                _check_job(name_job(config, job, swept), config, check, writers)
        return swept


def _check_job(
    name: str, config: DictConfig, check: Callable[[DictConfig], Any], writers: dict[str, str]
) -> None:
    """Check one job and note it as the writer of its output."""
    try:
        output = getattr(check(config), "output", None)
    except UserError as error:
        raise UserError(f"{name}: {error}; no job of the sweep was started") from None
    if output in writers:
        raise UserError(
            f"{name}: output={output} is also that of {writers[output]}; let it depend on what is "
            "swept"
        )
    if output is not None:
        writers[output] = name


def name_job(config: DictConfig, overrides: Iterable[str], swept: list[str]) -> str:
    """Give a job's training the name of what it does, and all trainings of the sweep their group.

    What is the name already (`process=psld`) is not said again. What the job shall be called.
    """
    name = config.get("name") or ""
    values = dict(override.partition("=")[::2] for override in overrides)
    labels = [f"{_leaf(key)}-{_plain(values[key])}" for key in swept if values[key] != name]
    name = "-".join([name, *labels] if name else labels)
    if "name" in config:
        config.name = name
    if "grid_name" in config and "grid_name" not in values and swept:
        config.grid_name = "-".join(["sweep", *map(_leaf, swept)])
    return name


@contextmanager
def job_of_a_sweep(
    config: DictConfig, swept: list[str], failures: list[Exception]
) -> Iterator[None]:
    """Report an error of one job where the job runs; the others go on, unless a signal ended it.

    `failures` are those of a sweep whose jobs all run in this process. From another one, Hydra
    hands an error on to the process that waits for the sweep.
    """
    name = name_job(config, HydraConfig.get().overrides.task, swept)
    print(f"{name}:", flush=True)
    try:
        yield
    except Exception as error:
        failure = _report(name, error)
        if "SUBMITIT_EXECUTOR" in os.environ:
            raise failure from None
        failures.append(failure)


def _report(name: str, error: Exception) -> PSLDError:
    """Print why a job failed. The error that says so to others, who know no traceback."""
    exit_code = exit_code_of(error)
    line = f"{name}: {one_line(error)}"
    if exit_code is None:
        traceback.print_exception(error)
    else:
        print(f"error: {line}", file=sys.stderr, flush=True)
    if exit_code is not None and exit_code >= 128:
        # Not an error to Hydra and submitit: it would count as the result of a job that Slurm has
        # preempted, and that goes on.
        sys.exit(exit_code)
    kind = UserError if exit_code == UserError.exit_code else RunError
    return kind(f"a job of the sweep failed: {line}")


class Announcement(Callback):
    """Says where to look while a launcher waits for its jobs."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        launcher = config.hydra.launcher
        if "submitit_folder" in launcher:
            on_slurm = launcher._target_.endswith("SlurmLauncher")
            stay = "; Ctrl-C leaves them in the queue" if on_slurm else ""
            print(f"the output of the sweep's jobs: {config.hydra.sweep.dir}{stay}", flush=True)


def _choices(override: Any) -> list[str]:
    """One override as those that each of its jobs is given."""
    if not override.is_sweep_override():
        return [override.input_line]
    return [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]


def _leaf(key: str) -> str:
    return re.split(r"[.@/]", key)[-1].lstrip("+")


def _plain(value: str) -> str:
    """A value as a part of a file's name that Hydra takes without quotes."""
    return re.sub(r"[^\w.-]+", "_", value.replace("+", "")).strip("_")
