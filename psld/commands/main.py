"""The program `psld`: its commands, their settings from words, errors in one line, exit codes.

psld COMMAND KEY=VALUE …
"""

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
from psld.utils.errors import UserError, ignored, in_one_line, printable

Program = Callable[[Any], Any]
"""The function of a command, which takes its settings, with its `Command` as an attribute."""

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
"""The module of each command, whose function has the command's name; in the order of first use."""

HELP = {"--help", "-h"}


def main() -> None:
    """Run the command named by the first word; the other words are its settings."""
    _prepare_output()
    # Pillow warns of damaged pictures. One that cannot be decoded is an error.
    warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
    try:
        with in_one_line(), showing_lines():
            _run(*(sys.argv[1:] or ["--help"]))
            sys.stdout.flush()
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    except BrokenPipeError:  # `psld … | head` has read enough
        sys.exit(128 + signal.SIGPIPE)
    finally:
        _discard_unwritable_output()


class Output(io.TextIOWrapper):
    """The standard output: escapes control characters, and what the locale does not have."""

    def write(self, text: str) -> int:
        return super().write(printable(text))


def _prepare_output() -> None:
    if sys.stdout is None:  # closed, by `>&-`
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115
    elif type(sys.stdout) is io.TextIOWrapper:  # and not of an earlier call, or a test's
        lines = sys.stdout.line_buffering
        sys.stdout = Output(
            sys.stdout.buffer, sys.stdout.encoding, "backslashreplace", line_buffering=lines
        )


def _discard_unwritable_output() -> None:
    """Python would try to write it again when it ends, and exit with 120."""
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
            raise UserError(f"no command {name!r}; there are: {', '.join(COMMANDS)}")


def program(command: str) -> Program:
    """Import a command without the search for garbage, which imports do not leave."""
    gc.disable()
    try:
        module = importlib.import_module(f"psld.commands.{COMMANDS[command]}")
        return getattr(module, command)
    finally:
        _freeze_imports()
        gc.enable()


@cache
def _freeze_imports() -> None:
    """Of the first command: tests call several in one process."""
    gc.freeze()


def overview() -> str:
    """List all commands with the first line of their docstrings; nothing is imported."""
    usage = "usage: psld COMMAND KEY=VALUE …        psld COMMAND --help shows a command's settings"
    lines = [usage, ""]
    for command, module in COMMANDS.items():
        body: list[Any] = ast.parse(Path(__file__).with_name(f"{module}.py").read_bytes()).body
        [function] = [node for node in body if getattr(node, "name", "") == command]
        lines.append(f"  {command:<16} {str(ast.get_docstring(function)).splitlines()[0]}")
    return "\n".join(lines)


def entry_point(name: str, kind: type[Settings], **options: Any) -> Callable[[Program], Program]:
    """Make a function of settings the command `psld NAME`; its docstring is the command's help.

        @entry_point("prepare", PrepareSettings)
        def prepare(settings: PrepareSettings) -> None: ...

    The options are the other arguments of `Command`.
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
        # A repeated signal would print a traceback while Python ends.
        signal.signal(signal.SIGTERM, ignored)


def _with_home(word: str) -> str:
    """Expand ~ in a word such as KEY=~/pictures: bash leaves it, and Hydra would refuse it."""
    key, _, value = word.partition("=")
    return f"{key}={Path(value).expanduser()}" if value.startswith("~/") else word


def _exit(number: int, _frame: FrameType | None) -> NoReturn:
    signal.signal(number, ignored)
    sys.exit(128 + number)


def settings_of(command: Command, words: list[str]) -> Settings:
    settings = command.settings(words)
    if settings is None:
        # Hydra takes a third of a second to import, and no job of the workflow needs it.
        from psld.commands.composed import composed_settings

        settings = composed_settings(command, words)
    return settings
