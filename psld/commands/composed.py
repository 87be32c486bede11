"""Settings composed by Hydra, and sweeps.

Hydra applies the words of the command line on top of the overrides of a record in a grid. A sweep
(`--multirun`) runs a command with Hydra's sweepers and launchers. This file depends on internals of
Hydra 1.3; tests/cli/test_sweeps.py fails if these internals change.
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

# Hydra 1.3 merges the configs of its launcher plugins into the files of the same names in
# configs/hydra/launcher, and warns about this.
warnings.filterwarnings("ignore", r"\s*'hydra/launcher/submitit_\w+' is validated against")


def composed_settings(command: Command, words: list[str]) -> Settings:
    """Compose the settings of a command from words that contain no flags."""
    with refusing(command.where):
        config = composed(command, overrides_of(command, with_keys(command, words)))
        content = content_of(config, command.where, command.unrecorded)
    return parse(command.kind, content, command.where)


def composed(command: Command, overrides: list[str]) -> DictConfig:
    """Return the config of a command with these overrides.

    Raises UserError for a key that is not a setting of the command. The error names the config file
    that sets the key, unless an override sets the key.
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
    """Print the settings for the flag `--cfg job`, or run a sweep for the flag `--multirun`."""
    flags, overrides = split_flags(words)
    overrides = with_keys(command, overrides)
    if "--multirun" in flags:
        sweep(command, main, overrides_of(command, overrides))
        return
    with refusing(command.where):
        config = composed(command, overrides_of(command, overrides))
        content: Any = OmegaConf.to_container(config, resolve=True)
        with suppress(UserError):  # Add the defaults of the classes, unless a setting is missing.
            content = parse(command.kind, content, command.where).model_dump(mode="json")
    print(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), end="")


def with_keys(command: Command, words: list[str]) -> list[str]:
    """Return all words, including positional arguments, in the form KEY=VALUE."""
    given, words = command.positional(words)
    return [*(f"{key}={quoted(word)}" for key, word in given.items()), *words]


def overrides_of(command: Command, words: list[str]) -> list[str]:
    """Return the overrides of the config of a command.

    If the words name a record, the overrides of this record come first in the result, and the other
    words follow. The other words replace the record's overrides of the same settings (`over`).
    If the words contain `data=FILE` but choose no dataset, the result chooses the dataset that is
    described next to FILE.
    """
    words = [*map(_with_metric_name, words)]
    if name := command.record_in(words):
        if not command.changeable:
            key = command.record
            raise UserError(f"{key}={name}: the grid sets all settings; remove {key}={name}")
        return over(words_of(command.record, name), without(words, command.record))
    data = value_in(words, "data")
    is_described = "dataset" in command.kind.model_fields and value_in(words, "dataset") is None
    if data is None or not is_described:
        return words
    # Deferred: the import of h5py takes 0.1 seconds, and most commands do not need it.
    from psld.data.store import described_dataset

    [path] = OmegaConf.create([data.strip("'\"")])  # Resolves ${oc.env:DATA}.
    return [name_dataset(described_dataset(Path(path))), *words]


def _with_metric_name(word: str) -> str:
    """Replace MEASURE@EXTRACTOR with the name of the metric if a word chooses metrics."""
    if not word.startswith("metric="):
        return word
    names = map(metric_name, word.removeprefix("metric=").split(","))
    return f"metric={','.join(names)}"


def split_flags(words: list[str]) -> tuple[set[str], list[str]]:
    """Return the flags and the other words. Raises UserError for an unknown flag."""
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
            raise UserError(f"{word}: unknown flag; the flags are --help, --cfg job and --multirun")
    return flags, others


# -- sweeps

CHOSEN = re.compile(r"hydra/(launcher|sweeper)/(?!basic$).*")
"""The configs that users choose by name on the command line of a sweep."""


def sweep(command: Command, main: Callable[[Any], Any], overrides: list[str]) -> None:
    """Run a command once for each combination of the swept values."""
    failures: list[PSLDError] = []

    def run_job(config: DictConfig) -> float | None:
        job = f"job {HydraConfig.get().job.num}"
        # Collect errors here, because Hydra prints an additional line for an error that it sees.
        try:
            with refusing(command.where):
                content = content_of(config, command.where, command.unrecorded)
            job = content.get("name") or job
            print(f"{job}:", flush=True)
            # A sweeper that optimizes settings uses the returned loss or metric.
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
    """Convert errors of submitit launchers to RunError with a message of one line."""
    try:
        yield
    except Exception as error:
        text, kinds = text_of(error), {kind.__name__ for kind in type(error).__mro__}
        if kinds & {"UncompletedJobError", "FailedJobError"}:
            # Slurm rejected, killed or canceled the job. Omit the end of its log from the message.
            what = text.partition(") Error stream")[0].partition(") No ")[0]
            others = "); the other jobs of the sweep continue" if what != text else ""
            raise RunError(f"{what}{others}") from None
        raise


def failure_of(name: str, error: Exception) -> PSLDError:
    """Print why a job of a sweep failed, and return an error that needs no traceback.

    If the job runs in a separate process, raise the error instead. Hydra then passes the error to
    the process that waits for the sweep. The other jobs of the sweep continue, unless a signal
    ended this job.
    """
    exit_code, line = explained(error) or (None, text_of(error))
    if exit_code is None:
        traceback.print_exception(error)
    else:
        print(f"error: {name}: {line}", file=sys.stderr, flush=True)
        if exit_code >= 128:
            # Exit here, because Hydra and submitit would treat a returned error as the result of
            # the job, although Slurm has preempted the job and will run it again.
            sys.exit(exit_code)
    kind = UserError if exit_code == UserError.exit_code else RunError
    failure = kind(f"a job of the sweep failed: {name}: {line}")
    if "SUBMITIT_EXECUTOR" in os.environ:
        raise failure from None
    return failure


class Loader(ConfigLoaderImpl):
    """Rejects configs that set keys under `hydra`.

    These keys may name code, and a sweep would call this code.
    """

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
                text = "sets Hydra's own settings, which can run code; remove them"
                raise ConfigCompositionException(f"configs/{path}.yaml: {text}")
        return loaded


class Announcement(Callback):
    """A Hydra callback that creates and prints the folder of the jobs of a sweep."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        launcher = config.hydra.launcher
        if "submitit_folder" in launcher:
            make_private(Path(config.hydra.sweep.dir))  # The jobs execute pickles from this folder.
            on_slurm = launcher._target_.endswith("SlurmLauncher")
            stay = "; Ctrl-C leaves the jobs in the queue" if on_slurm else ""
            print(f"output of the sweep's jobs: {config.hydra.sweep.dir}{stay}", flush=True)
