"""What every entry point shares: Hydra composes, the settings are checked, errors are one line."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from psld.errors import PSLDError, UserError
from psld.files import DISK_ERRORS
from psld.settings import Settings, parse

S = TypeVar("S", bound=Settings)

CONFIGS = Path(__file__).resolve().parents[1] / "configs"


def entry_point(
    name: str, kind: type[S], rewrite: Callable[[list[str]], list[str]] = list
) -> Callable[[Callable[[S], Any]], Callable[[], None]]:
    """Make `main(settings)` the command `python -m psld.NAME`, configured by configs/NAME.yaml.

        @entry_point("prepare", PrepareSettings)
        def main(settings: PrepareSettings) -> None: ...

    Bad input ends with exit code 2 and a fault at run time with 1, both with one line on stderr.
    `rewrite` may replace the command line's overrides before Hydra sees them.
    """

    def decorate(main: Callable[[S], Any]) -> Callable[[], None]:
        failures: list[Exception] = []

        @hydra.main(config_path=str(CONFIGS), config_name=name, version_base="1.3")
        def hydra_main(config: DictConfig) -> Any:
            try:
                where = f"configs/{name}.yaml"
                return main(parse(kind, content_of(config, where), where))
            except Exception as error:
                if HydraConfig.get().mode == RunMode.MULTIRUN:
                    raise
                # Hydra would add a line of its own to an error that passes through it.
                failures.append(error)

        def command() -> None:
            # Hydra would print its own summary and exit with 1; here its errors are user errors.
            os.environ.setdefault("HYDRA_FULL_ERROR", "1")
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
            try:
                sys.argv[1:] = rewrite(sys.argv[1:])
                hydra_main()
                if failures:
                    raise failures.pop()
            except Exception as error:
                exit_code = _exit_code(error)
                if exit_code is None:
                    raise
                print(f"error: {_one_line(error)}", file=sys.stderr)
                sys.exit(exit_code)

        return command

    return decorate


def content_of(config: DictConfig, where: str) -> dict[str, Any]:
    """The resolved content of a config.

    Raises UserError, naming `where`, for values that the user must give and has not (`???`).
    """
    missing = list(_missing(OmegaConf.to_container(config)))
    if missing:
        raise UserError(f"{where}: missing: {', '.join(f'{key}=…' for key in missing)}")
    return OmegaConf.to_container(config, resolve=True)


def _missing(content: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in content.items():
        if value == MISSING:
            yield prefix + key
        elif isinstance(value, dict):
            yield from _missing(value, f"{prefix}{key}.")


def _exit_code(error: Exception) -> int | None:
    """The exit code of an error that one line explains, or None for one that needs a traceback."""
    if isinstance(error, PSLDError):
        return error.exit_code
    if isinstance(error, HydraException | OmegaConfBaseException):
        return 2
    if isinstance(error, PermissionError):
        return 2
    if isinstance(error, OSError) and error.errno in DISK_ERRORS:
        return 1
    if _out_of_gpu_memory(error):
        return 1
    return None


def _out_of_gpu_memory(error: Exception) -> bool:
    """Whether it is torch's error for a full GPU, told by its name: not all commands need torch."""
    return type(error).__name__ == "OutOfMemoryError"


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, OSError) and error.errno in DISK_ERRORS:
        place = error.filename or "the disk"
        return f"{place}: cannot be written ({error.strerror}); free some space and try again"
    if _out_of_gpu_memory(error):
        return f"{text.split('. ')[0]}: lower training.micro_batch, or batch_size when sampling"
    return text
