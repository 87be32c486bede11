"""The program `psld`: run a command, or list all of them.

psld COMMAND KEY=VALUE …
"""

import ast
import gc
import importlib
import io
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from psld.cluster.watch import end_with_snakemake
from psld.config.messages import in_one_line
from psld.utils import VERSION
from psld.utils.errors import UserError, printable

COMMANDS = {
    "init": "project",
    "prepare": "project",
    "train": "training",
    "train_guide": "training",
    "train_extractor": "metrics",
    "import": "training",
    "import_model": "training",
    "import_guide": "training",
    "reference": "metrics",
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

USAGE = "usage: psld COMMAND KEY=VALUE …        psld COMMAND --help shows a command's settings"


def main() -> None:
    """Run the command named by the first word; the other words are its settings."""
    _prepare_output()
    try:
        with in_one_line():
            _run(*(sys.argv[1:] or ["--help"]))
            sys.stdout.flush()
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    except BrokenPipeError:  # `psld … | head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)


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


def _run(name: str, *rest: str) -> None:
    match name:
        case "--help" | "-h":
            print(overview())
        case "--version":
            print(f"psld {VERSION}")
        case _ if name in COMMANDS:
            sys.argv[:] = [f"psld {name}", *rest]
            end_with_snakemake(name)
            program(name)()
        case _:
            print(f"error: no command {name!r}; there are: {', '.join(COMMANDS)}", file=sys.stderr)
            sys.exit(UserError.exit_code)


def program(command: str) -> Callable[[], None]:
    """Import the program of a command."""
    return getattr(_imported(COMMANDS[command]), _function(command))


def _imported(module: str) -> ModuleType:
    """Import a module of commands without the search for garbage, which imports do not leave."""
    gc.disable()
    try:
        return importlib.import_module(f"psld.commands.{module}")
    finally:
        if not gc.get_freeze_count():  # tests call several commands in one process
            gc.freeze()
        gc.enable()


def _function(command: str) -> str:
    return "import_" if command == "import" else command  # Python reserves the word.


def overview() -> str:
    """List all commands with the first line of their docstrings; nothing is imported."""
    lines = [USAGE, ""]
    for command, module in COMMANDS.items():
        body = ast.parse(Path(__file__).with_name(f"{module}.py").read_bytes()).body
        [function] = [node for node in body if getattr(node, "name", "") == _function(command)]
        lines.append(f"  {command:<16} {ast.get_docstring(function).splitlines()[0]}")
    return "\n".join(lines)
