"""The entry point of every command: settings from the words, errors in one line, exit codes."""

import signal
import sys
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, TypeVar

from psld.commands.frame import HELP, Frame, FromRecord
from psld.config.messages import explained
from psld.config.settings import Settings

S = TypeVar("S", bound=Settings)


def entry_point(
    name: str,
    kind: type[S],
    *,
    records: Mapping[str, FromRecord] | None = None,
    bare: str | None = None,
    has_config: bool = True,
) -> Callable[[Callable[[S], Any]], Callable[[], None]]:
    """Make `main(settings)` the command `psld NAME`.

        @entry_point("prepare", PrepareSettings)
        def main(settings: PrepareSettings) -> None: ...

    Bad input exits with code 2 and a failure at run time with 1; both print one line on stderr.
    The arguments are those of `Frame`.
    """
    frame = Frame(name, kind, records or {}, bare, has_config)

    def decorate(main: Callable[[S], Any]) -> Callable[[], None]:
        @wraps(main)
        def command() -> None:
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
            try:
                _run(frame, main, sys.argv[1:])
            except Exception as error:
                known = explained(error)
                if known is None:
                    raise
                exit_code, line = known
                print(f"error: {line}", file=sys.stderr)
                sys.exit(exit_code)

        return command

    return decorate


def _run(frame: Frame, main: Callable[[Any], Any], words: list[str]) -> None:
    if not HELP.isdisjoint(words):
        from psld.commands.help import help_of

        print(help_of(sys.argv[0], frame, sys.modules[main.__module__].__doc__, words))
        return
    if frame.has_config and any(word.startswith(("-", "hydra")) for word in words):
        from psld.commands.composed import run_with_flags

        run_with_flags(frame, main, words)
        return
    main(settings_of(frame, words))


def settings_of(frame: Frame, words: list[str]) -> Settings:
    """Return the settings that the words of a command without flags give."""
    settings = frame.settings(words)
    if settings is not None:
        return settings
    # Hydra takes a third of a second to import, and no job of the workflow needs it.
    from psld.commands.composed import composed_settings

    return composed_settings(frame, words)
