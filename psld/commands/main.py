"""The program `psld`: run a command, or list all of them.

psld COMMAND KEY=VALUE …
"""

import ast
import gc
import importlib
import keyword
import os
import signal
import sys
from pathlib import Path
from types import ModuleType

from psld.cluster.watch import end_with_snakemake
from psld.utils import VERSION
from psld.utils.errors import UserError

COMMANDS = (
    "prepare",
    "design",
    "train",
    "train_guide",
    "train_extractor",
    "import",
    "reference",
    "sample",
    "evaluate",
    "likelihood",
    "tabulate",
    "figure",
    "page",
    "certify",
    "verify",
    "push",
    "plan",
    "launch",
    "wandb",
)
"""All commands, in the order of their first use."""

USAGE = "usage: psld COMMAND KEY=VALUE …        psld COMMAND --help shows a command's settings"


def main() -> None:
    """Run the command named by the first word; the other words are its settings."""
    name, *rest = sys.argv[1:] or ["--help"]
    match name:
        case "--help" | "-h":
            print(overview())
        case "--version":
            print(f"psld {VERSION}")
        case _ if name in COMMANDS:
            sys.argv[:] = [f"psld {name}", *rest]
            end_with_snakemake(name)
            try:
                import_command(name).main()
                sys.stdout.flush()
            except KeyboardInterrupt:
                print("error: interrupted", file=sys.stderr)
                sys.exit(128 + signal.SIGINT)
            except BrokenPipeError:  # `psld … | head` has read enough
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                sys.exit(128 + signal.SIGPIPE)
        case _:
            print(f"error: no command {name!r}; there are: {', '.join(COMMANDS)}", file=sys.stderr)
            sys.exit(UserError.exit_code)


def import_command(command: str) -> ModuleType:
    """Import a command's module, without the search for garbage, which imports do not leave."""
    gc.disable()
    try:
        return importlib.import_module(f"psld.commands.{module_of(command)}")
    finally:
        if not gc.get_freeze_count():  # tests call several commands in one process
            gc.freeze()
        gc.enable()


def module_of(command: str) -> str:
    """Return the name of a command's module: the command, with `_` if Python reserves it."""
    return f"{command}_" if keyword.iskeyword(command) else command


def overview() -> str:
    """List all commands with the first line of their modules, which are not imported."""
    lines = [USAGE, ""]
    for command in COMMANDS:
        source = Path(__file__).with_name(f"{module_of(command)}.py").read_text()
        lines.append(f"  {command:<16} {ast.get_docstring(ast.parse(source)).splitlines()[0]}")
    return "\n".join(lines)
