"""The entry point of every command: settings from the words, errors in one line, exit codes."""

import inspect
import signal
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, TypeVar

from psld.commands.command import Command
from psld.config.messages import in_one_line
from psld.config.settings import Settings
from psld.utils.errors import ignored

S = TypeVar("S", bound=Settings)

HELP = {"--help", "-h"}


def entry_point(
    name: str, kind: type[S], **options: Any
) -> Callable[[Callable[[S], Any]], Callable[[], None]]:
    """Make a function of settings the command `psld NAME`; its docstring is the command's help.

        @entry_point("prepare", PrepareSettings)
        def prepare(settings: PrepareSettings) -> None: ...

    Bad input exits with code 2 and a failure at run time with 1; both print one line on stderr.
    The program has the command as its attribute `command`.

    Args:
        options: the other arguments of `Command`.
    """
    command = Command(name, kind, **options)

    def decorate(main: Callable[[S], Any]) -> Callable[[], None]:
        @wraps(main)
        def program() -> None:
            signal.signal(signal.SIGTERM, _exit)
            try:
                with in_one_line():
                    _run(command, main, [_with_home(word) for word in sys.argv[1:]])
            finally:
                # A repeated signal would print a traceback while Python ends.
                signal.signal(signal.SIGTERM, ignored)

        program.command = command
        return program

    return decorate


def _with_home(word: str) -> str:
    """Expand ~ in a word such as KEY=~/pictures: bash leaves it, and Hydra would refuse it."""
    key, _, value = word.partition("=")
    return f"{key}={Path(value).expanduser()}" if value.startswith("~/") else word


def _exit(number: int, _frame: FrameType | None) -> NoReturn:
    signal.signal(number, ignored)
    sys.exit(128 + number)


def _run(command: Command, main: Callable[[Any], Any], words: list[str]) -> None:
    if not HELP.isdisjoint(words):
        from psld.commands.help import help_of

        words = [word for word in words if word not in HELP]
        print(help_of(sys.argv[0], command, inspect.getdoc(main), words))
    elif command.has_config and any(word.startswith(("-", "hydra")) for word in words):
        from psld.commands.composed import run_with_flags

        run_with_flags(command, main, words)
    else:
        main(settings_of(command, words))


def settings_of(command: Command, words: list[str]) -> Settings:
    """Return the settings that words without flags give."""
    settings = command.settings(words)
    if settings is None:
        # Hydra takes a third of a second to import, and no job of the workflow needs it.
        from psld.commands.composed import composed_settings

        settings = composed_settings(command, words)
    return settings
