"""The program `psld COMMAND KEY=VALUE …`: dispatch, settings, one-line errors and exit codes."""

import ast
import gc
import importlib
import inspect
import io
import os
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, cast

from psld.cluster.job import end_with_snakemake
from psld.commands.command import Command
from psld.config.parts import showing_lines
from psld.config.settings import Settings
from psld.utils import VERSION
from psld.utils.errors import UserError, ignored, in_one_line, meant, printable

Program = Callable[[Any], Any]
"""The function of a command, with the settings as argument. `entry_point` adds `command`."""

COMMANDS = {
    "init": "project",
    "check": "check",
    "prepare": "project",
    "train": "training",
    "train_guide": "training",
    "train_extractor": "metrics",
    "import_model": "training",
    "import_guide": "training",
    "reference": "metrics",
    "start": "training",
    "sample": "sampling",
    "evaluate": "metrics",
    "evaluate_cell": "metrics",
    "likelihood": "sampling",
    "tabulate": "report",
    "figure": "report",
    "page": "report",
    "certify": "report",
    "verify": "report",
    "push": "uploads",
    "plan": "report",
    "launch": "launch",
    "wandb": "uploads",
}
"""The module of each command, in the order in which users need the commands. The function has the
name of the command."""

HELP = {"--help", "-h"}


def main() -> None:
    """Run the command that the first word names. The other words are its settings."""
    _prepare_output()
    # Hide Pillow's warnings about damaged pictures. Pictures that cannot be decoded raise errors.
    warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
    try:
        with in_one_line(), showing_lines():
            _run(*(sys.argv[1:] or ["--help"]))
            sys.stdout.flush()
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    except BrokenPipeError:  # The reader of a pipe has exited, as in `psld … | head`.
        sys.exit(128 + signal.SIGPIPE)
    finally:
        _discard_unwritable_output()


class Output(io.TextIOWrapper):
    """Standard output that escapes control characters and characters missing from the locale."""

    def write(self, text: str) -> int:
        return super().write(printable(text))


def _prepare_output() -> None:
    if sys.stdout is None:  # The shell has closed standard output (`>&-`).
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115
    elif type(sys.stdout) is io.TextIOWrapper:  # Not yet replaced.
        lines = sys.stdout.line_buffering
        sys.stdout = Output(
            sys.stdout.buffer, sys.stdout.encoding, "backslashreplace", line_buffering=lines
        )


def _discard_unwritable_output() -> None:
    """Redirect unwritable output to /dev/null. Otherwise, Python would exit with code 120."""
    for output in filter(None, (sys.stdout, sys.stderr)):
        try:
            output.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), output.fileno())


def _run(name: str, *words: str) -> None:
    match name:
        case "--help" | "-h":
            print(overview())
        case "--version":
            print(f"psld {VERSION}")
        case _ if name in COMMANDS:
            end_with_snakemake(name)
            run_command(program(name), words)
        case _:
            known = f"the commands are: {', '.join(COMMANDS)}"
            raise UserError(f"no command {name!r}{meant(name, COMMANDS)}; {known}")


def program(command: str) -> Program:
    """Import a command. Garbage collection is turned off, because imports create no garbage."""
    gc.disable()
    try:
        module = importlib.import_module(f"psld.commands.{COMMANDS[command]}")
        return getattr(module, command)
    finally:
        _freeze_imports()
        gc.enable()


@cache
def _freeze_imports() -> None:
    """Exclude the imported objects from garbage collection.

    This happens once per process, because tests call several commands in one process.
    """
    gc.freeze()


def overview() -> str:
    """Return a list of all commands with the first lines of their docstrings.

    The docstrings are read from the source code, without importing the commands.
    """
    usage = "usage: psld COMMAND KEY=VALUE …        psld COMMAND --help shows a command's settings"
    lines = [usage, ""]
    for command, module in COMMANDS.items():
        body: list[Any] = ast.parse(Path(__file__).with_name(f"{module}.py").read_bytes()).body
        [function] = [node for node in body if getattr(node, "name", "") == command]
        lines.append(f"  {command:<16} {str(ast.get_docstring(function)).splitlines()[0]}")
    return "\n".join(lines)


def entry_point(name: str, kind: type[Settings], **options: Any) -> Callable[[Program], Program]:
    """Make a function the command `psld NAME`. Its docstring is the help of the command.

        @entry_point("prepare", PrepareSettings)
        def prepare(settings: PrepareSettings) -> None: ...

    The options are the remaining fields of `Command`.
    """

    def decorate(function: Program) -> Program:
        cast(Any, function).command = Command(name, kind, **options)
        return function

    return decorate


def run_command(function: Program, words: Sequence[str]) -> None:
    command, words = cast(Any, function).command, [_with_home(word) for word in words]
    signal.signal(signal.SIGTERM, _exit)
    try:
        if not HELP.isdisjoint(words):
            from psld.commands.help import help_of

            words = [word for word in words if word not in HELP]
            print(help_of(command, inspect.getdoc(function) or "", words))
        elif command.has_config and any(word.startswith(("-", "hydra")) for word in words):
            from psld.commands.composed import run_with_flags

            run_with_flags(command, function, words)
        else:
            function(settings_of(command, words))
    finally:
        # Ignore a repeated signal, which would print a traceback while Python exits.
        signal.signal(signal.SIGTERM, ignored)


def _with_home(word: str) -> str:
    """Expand ~ in a word such as KEY=~/pictures, because neither bash nor Hydra expands it."""
    key, _, value = word.partition("=")
    return f"{key}={Path(value).expanduser()}" if value.startswith("~/") else word


def _exit(number: int, _frame: FrameType | None) -> NoReturn:
    signal.signal(number, ignored)
    sys.exit(128 + number)


def settings_of(command: Command, words: list[str]) -> Settings:
    settings = command.settings(words)
    if settings is None:
        # Deferred: the import of Hydra takes 0.3 seconds, and no job of the workflow needs Hydra.
        from psld.commands.composed import composed_settings

        settings = composed_settings(command, words)
    return settings
