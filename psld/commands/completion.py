"""Completion in a shell: Hydra's own, which learns here our commands and the names of records.

    eval "$(psld -sc install=bash)"     # zsh: after compinit and bashcompinit
    psld -sc install=fish | source

The shell then asks `psld -sc query=bash`, with the line up to the cursor in COMP_LINE.
"""

import sys
from contextlib import suppress
from typing import get_args

from hydra._internal.core_plugins.bash_completion import BashCompletion
from hydra._internal.core_plugins.fish_completion import FishCompletion
from hydra.plugins.completion_plugin import CompletionPlugin

from psld.commands.main import COMMANDS, program
from psld.config.compose import compose_whole, refusing, without_hydra
from psld.config.locations import config_file, config_names
from psld.grid.cache import RECORDS, load_grid
from psld.utils.errors import UserError


class _Completion(CompletionPlugin):
    def _query(self, config_name: str | None, line: str) -> list[str]:
        """Return what the last word of a line, without the program's name, can become."""
        command, *words = line.split()[: None if line.endswith(" ") else -1] or [None]
        word = line.rpartition(" ")[2]
        key, equals, value = word.partition("=")
        matches = []
        if command in COMMANDS:
            with suppress(UserError):  # The command itself reports errors.
                composed = config_file("", command) is not None
                matches = (_composed if composed else _without_config)(command, words, word)
                if equals and not matches:
                    values = _records(key, value) or self.complete_files(value)
                    matches = [f"{key}={value}" for value in values]
        elif command is None:
            matches = COMMANDS
        return sorted({match for match in matches if match.startswith(word)})


class Bash(_Completion, BashCompletion):
    """Completion for bash and zsh."""


class Fish(_Completion, FishCompletion):
    """Completion for fish."""


SHELLS = {"bash": Bash, "zsh": Bash, "fish": Fish}


def complete(words: list[str]) -> None:
    """Do what Hydra's flag `-sc` does: `install=SHELL`, or `query=SHELL` for the shell."""
    action, _, shell = "".join(words).partition("=")
    if action not in ("install", "query") or shell not in SHELLS:
        print("error: -sc takes install=SHELL; SHELL is bash, zsh or fish", file=sys.stderr)
        sys.exit(UserError.exit_code)
    plugin = SHELLS[shell](config_loader=None)  # It composes by itself.
    plugin.query(None) if action == "query" else plugin.install()


def _composed(command: str, words: list[str], word: str) -> list[str]:
    """Return groups and settings, or the choices of the word's group; `GROUP=A,B` sweeps."""
    # Values change nothing that can be completed, and may be wrong: compose choices alone.
    config = compose_whole(command, [each for each in map(_choice, words) if each], command)
    groups = {key: config_names(key.partition("@")[0]) for key in config.hydra.runtime.choices}
    group, equals, _ = word.partition("=")
    if equals and groups.get(group):
        start = word[: max(word.rfind("="), word.rfind(",")) + 1]
        return [start + name for name in groups[group]]
    with refusing(command):
        settings = CompletionPlugin._get_matches(without_hydra(config), word)
    return settings if equals else [*settings, *(f"{key}=" for key in groups if groups[key])]


def _choice(word: str) -> str | None:
    """Return a word that chooses a config of a group, of a sweep the first one; None for others."""
    key, _, value = word.partition("=")
    name = value.partition(",")[0]
    return f"{key}={name}" if config_file(key.partition("@")[0], name) else None


def _without_config(command: str, _: list[str], word: str) -> list[str]:
    """Return the settings of a command, or the values of the word's setting."""
    fields = program(command).command.kind.model_fields
    key, equals, _ = word.partition("=")
    if not equals or key not in fields:
        return [f"{key}=" for key in fields]
    kind = fields[key].annotation
    values = [text for each in (kind, *get_args(kind)) for text in get_args(each)]  # Literal | None
    values = config_names("grid") if key == "grid_name" else values
    return [f"{key}={value}" for value in values if isinstance(value, str)]


def _records(key: str, value: str) -> list[str]:
    """Return GRID/ or, once the grid stands there, GRID/NAME of its records."""
    grid, slash, _ = value.partition("/")
    if key not in RECORDS:
        return []
    records = getattr(load_grid(grid), RECORDS[key]) if slash else ()
    return [f"{grid}/{name}" for name in records] or [f"{name}/" for name in config_names("grid")]
