"""Commands whose settings Hydra composes, from words over those of a grid's record; and sweeps.

A sweep, `--multirun`, runs a command by Hydra's sweepers and launchers. This file depends on the
inside of Hydra 1.3; tests/cli/test_sweeps.py says when it has changed.
"""

import os
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast

import yaml
from hydra import initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import ConfigCompositionException
from hydra.experimental.callback import Callback
from hydra.plugins.config_source import ConfigResult
from omegaconf import DictConfig, OmegaConf

from psld.commands.command import Command
from psld.config.compose import (
    Composer,
    content_of,
    for_hydra,
    name_dataset,
    over,
    refusing,
    without_environment,
)
from psld.config.locations import CONFIGS, config_file
from psld.config.settings import (
    Settings,
    key_of,
    parse,
    question,
    quoted,
    unknown_key,
    value_in,
    without,
)
from psld.grid.cache import words_of
from psld.metrics.named import metric_name
from psld.utils.errors import PSLDError, RunError, UserError, explained, text_of
from psld.utils.files import make_private

# Hydra 1.3 merges the launchers' own configs, of the same names, into configs/hydra/launcher.
warnings.filterwarnings("ignore", r"\s*'hydra/launcher/submitit_\w+' is validated against")


def composed_settings(command: Command, words: list[str]) -> Settings:
    """Return the settings that Hydra composes from words without flags."""
    with refusing(command.where):
        config = composed(command, overrides_of(command, with_keys(command, words)))
        content = content_of(config, command.where, command.unrecorded)
    return parse(command.kind, content, command.where)


def composed(command: Command, overrides: list[str]) -> DictConfig:
    """Return the config of a command with these overrides.

    Raises UserError for a key that the command's settings do not have, and names the chosen config
    that has it, unless a word does.
    """
    config = Composer().config(command.name, overrides, command.where)
    content, place = cast(dict[str, Any], OmegaConf.to_container(config)), command.where
    if (key := unknown_key(command.kind, content)) is None:
        return config
    for word in () if key in map(key_of, overrides) else overrides:
        group, _, name = word.partition("=")
        folder = group.partition("@")[0]
        if key.startswith(f"{key_of(word)}.") and config_file(folder, name):
            place = f"configs/{folder}/{name}.yaml"
    asked = question(command.kind, content, key)
    raise UserError(f"{place}: unknown key {key}{asked}; the command's --help lists them")


def run_with_flags(command: Command, main: Callable[[Any], Any], words: list[str]) -> None:
    """Run a command with `--cfg job`, which prints its settings, or `--multirun`, a sweep."""
    flags, overrides = split_flags(words)
    overrides = with_keys(command, overrides)
    if "--multirun" in flags:
        sweep(command, main, overrides_of(command, overrides))
        return
    with refusing(command.where):
        config = composed(command, overrides_of(command, overrides))
        content: Any = OmegaConf.to_container(config, resolve=True)
        with suppress(UserError):  # with the defaults of the classes, unless something is missing
            content = parse(command.kind, content, command.where).model_dump(mode="json")
    print(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), end="")


def with_keys(command: Command, words: list[str]) -> list[str]:
    """Return the words as KEY=VALUE, including the command's positionals."""
    given, words = command.positional(words)
    return [*(f"{key}={quoted(word)}" for key, word in given.items()), *words]


def overrides_of(command: Command, words: list[str]) -> list[str]:
    """Return the overrides of a command's config.

    The words come after those of the grid whose record they name, or after the dataset that is
    described next to `data=FILE`.
    """
    words = [*map(_with_metric_name, words)]
    if name := command.record_in(words):
        if not command.changeable:
            key = command.record
            raise UserError(f"{key}={name}: the grid decides everything; leave {key} out")
        return over(words_of(command.record, name), without(words, command.record))
    data = value_in(words, "data")
    is_described = "dataset" in command.kind.model_fields and value_in(words, "dataset") is None
    if data is None or not is_described:
        return words
    # h5py takes a tenth of a second to import; most commands are given a dataset.
    from psld.data.store import described_dataset

    [path] = OmegaConf.create([data.strip("'\"")])  # It may be ${oc.env:DATA}/cifar10.h5.
    return [name_dataset(described_dataset(Path(path))), *words]


def _with_metric_name(word: str) -> str:
    """Return a word that chooses metrics with the names of those of MEASURE@EXTRACTOR."""
    if not word.startswith("metric="):
        return word
    names = map(metric_name, word.removeprefix("metric=").split(","))
    return f"metric={','.join(names)}"


def split_flags(words: list[str]) -> tuple[set[str], list[str]]:
    """Return the flags and the other words. Raises UserError for a flag that there is not."""
    flags, others = set(), []
    rest = iter(words)
    for word in rest:
        if not word.startswith("-"):
            others.append(word)
        elif word in ("--multirun", "-m"):
            flags.add("--multirun")
        elif word in ("--cfg", "-c") and next(rest, "") == "job":
            flags.add("--cfg")
        else:
            raise UserError(f"{word}: no such flag; there are --help, --cfg job and --multirun")
    return flags, others


# -- sweeps

CHOSEN = re.compile(r"hydra/(launcher|sweeper)/(?!basic$).*")
"""The configs that people choose by name on a sweep's command line."""


def sweep(command: Command, main: Callable[[Any], Any], overrides: list[str]) -> None:
    """Run a command for each combination of the values that the overrides sweep over."""
    failures: list[PSLDError] = []

    def run_job(config: DictConfig) -> float | None:
        job = f"job {HydraConfig.get().job.num}"
        # Collect errors: Hydra adds a line of its own to an error that passes through it.
        try:
            with refusing(command.where):
                content = content_of(config, command.where, command.unrecorded)
            job = content.get("name") or job
            print(f"{job}:", flush=True)
            # A sweeper that optimizes takes what main returns: a loss, a metric.
            return main(parse(command.kind, content, command.where))
        except Exception as error:
            failures.append(failure_of(job, error))
        return None

    with (
        submitit_errors(),
        refusing(command.where),
        initialize_config_dir(str(CONFIGS), command.name, "1.3"),
    ):
        hydra: Any = GlobalHydra.instance().hydra
        hydra.config_loader = Loader(hydra.config_loader.get_search_path())
        hydra.multirun(command.name, run_job, for_hydra(overrides))
    if failures:
        raise type(failures[0])(f"{len(failures)} of the sweep's jobs failed")


@contextmanager
def submitit_errors() -> Iterator[None]:
    """Turn the errors of a launcher that is submitit's into one line."""
    try:
        yield
    except Exception as error:
        text, kinds = text_of(error), {kind.__name__ for kind in type(error).__mro__}
        if kinds & {"UncompletedJobError", "FailedJobError"}:
            # Slurm refused, killed or canceled the job. Leave out the end of its log.
            what = text.partition(") Error stream")[0].partition(") No ")[0]
            others = "); the sweep's other jobs go on" if what != text else ""
            raise RunError(f"{what}{others}") from None
        raise


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


class Loader(ConfigLoaderImpl):
    """Refuses configs that set Hydra's own part: a sweep calls what is named there."""

    def load_configuration(self, *args: Any, **options: Any) -> DictConfig:
        with without_environment():
            return super().load_configuration(*args, **options)

    def _load_single_config(self, default: Any, repo: Any) -> ConfigResult:
        loaded, path = super()._load_single_config(default, repo), default.config_path
        groups = (getattr(each, "group", "").lstrip("/") for each in loaded.defaults_list or ())
        sets_hydra = "hydra" in {*loaded.config, *(group.partition("/")[0] for group in groups)}
        if sets_hydra and loaded.provider in ("main", "own") and not CHOSEN.fullmatch(path):
            file, shipped = config_file("", path), CONFIGS / "command_line.yaml"
            if path != shipped.stem or not file or file.read_bytes() != shipped.read_bytes():
                text = "sets Hydra's own part, in which code can run; leave it out"
                raise ConfigCompositionException(f"configs/{path}.yaml: {text}")
        return loaded


class Announcement(Callback):
    """A Hydra callback that makes and prints the folder of the jobs while a launcher waits."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        launcher = config.hydra.launcher
        if "submitit_folder" in launcher:
            make_private(Path(config.hydra.sweep.dir))  # The jobs run pickles in it.
            on_slurm = launcher._target_.endswith("SlurmLauncher")
            stay = "; Ctrl-C leaves them in the queue" if on_slurm else ""
            print(f"the output of the sweep's jobs: {config.hydra.sweep.dir}{stay}", flush=True)
