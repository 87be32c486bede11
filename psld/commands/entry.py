"""The frame of every command: compose with Hydra, check the settings, print errors in one line."""

import os
import signal
import sys
import warnings
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from psld.commands.sweeps import begin_job, check_jobs, failure_of, first_job, is_sweep
from psld.config.compose import compose_content, content_of, refusing
from psld.config.locations import CONFIGS
from psld.config.messages import explained
from psld.config.settings import Settings, parse
from psld.utils.errors import UserError

S = TypeVar("S", bound=Settings)

# configs/hydra/launcher overrides the launchers' own configs, which Hydra 1.3 merges in.
warnings.filterwarnings("ignore", r"\s*'hydra/launcher/submitit_\w+' is validated against")


def entry_point(
    name: str, kind: type[S], rewrite: Callable[[list[str]], list[str]] = list
) -> Callable[[Callable[[S], Any]], Callable[[], None]]:
    """Make `main(settings)` the command `psld NAME`, configured by configs/NAME.yaml.

        @entry_point("prepare", PrepareSettings)
        def main(settings: PrepareSettings) -> None: ...

    Bad input exits with code 2 and a failure at run time with 1; both print one line on stderr.
    `rewrite` may replace the overrides before Hydra reads them.
    """

    def decorate(main: Callable[[S], Any]) -> Callable[[], None]:
        failures: list[Exception] = []
        swept: list[str] = []
        where = f"configs/{name}.yaml"

        def settings_of(config: DictConfig) -> S:
            return parse(kind, content_of(config, where), where)

        @hydra.main(config_path=str(CONFIGS), config_name=name, version_base="1.3")
        def hydra_main(config: DictConfig) -> None:
            sweeps = HydraConfig.get().mode == RunMode.MULTIRUN
            job = begin_job(config, swept) if sweeps else None
            # Collect errors: Hydra adds a line of its own to an error that passes through it.
            try:
                main(settings_of(config))
            except Exception as error:
                failures.append(failure_of(job, error) if sweeps else error)

        def command() -> None:
            # Without this, Hydra prints a summary and exits with 1; its errors are user errors.
            os.environ.setdefault("HYDRA_FULL_ERROR", "1")
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
            try:
                failures.clear()
                wants_help = not {"--help", "-h"}.isdisjoint(sys.argv[1:])
                sys.argv[1:] = _arguments(sys.argv[1:], rewrite)
                if wants_help:
                    from psld.commands.help import help_of

                    description = sys.modules[main.__module__].__doc__
                    words = _check_flags(sys.argv[1:])
                    words = first_job(words) if is_sweep(sys.argv) else words
                    print(help_of(sys.argv[0], name, kind, description, words))
                    return
                if not any(word.startswith(("-", "hydra")) for word in sys.argv[1:]):
                    # Skip hydra_main if possible: it composes twice, first to detect a sweep.
                    main(parse(kind, compose_content(name, sys.argv[1:], where), where))
                    return
                _check_flags(sys.argv[1:])
                with refusing(where):
                    swept[:] = check_jobs(name, sys.argv[1:], settings_of)
                    hydra_main()
                if swept and failures:
                    raise type(failures[0])(f"{len(failures)} of the sweep's jobs failed")
                if failures:
                    raise failures[0]
            except Exception as error:
                known = explained(error)
                if known is None:
                    raise
                exit_code, line = known
                print(f"error: {line}", file=sys.stderr)
                sys.exit(exit_code)

        return command

    return decorate


def adding(group: str) -> Callable[[list[str]], list[str]]:
    """Return a `rewrite` that lets GROUP.KEY=… add a key: Hydra asks for ++ in front of it."""
    return lambda given: [f"++{a}" if a.startswith(f"{group}.") else a for a in given]


def _arguments(given: list[str], rewrite: Callable[[list[str]], list[str]]) -> list[str]:
    """Return the command line in Hydra's order: options before overrides."""
    rewritten = rewrite(given)
    if is_sweep(rewritten):
        # A sweep that starts from a grid's model is not part of the grid.
        rewritten = [w for w in rewritten if w in given or not w.startswith("grid_name=")]
    return sorted(rewritten, key=lambda word: "=" in word and not word.startswith("-"))


def _check_flags(given: list[str]) -> list[str]:
    """Return the overrides; refuse wrong flags in one line, for which Hydra prints its usage.

    `--experimental-rerun` is refused, too: it reads a pickle.
    """
    parser = get_args_parser()
    parser.error = _refuse
    parsed = parser.parse_args(given)
    if parsed.experimental_rerun is not None:
        _refuse("--experimental-rerun is not supported; give the overrides again")
    return parsed.overrides


def _refuse(message: str) -> NoReturn:
    raise UserError(message)
