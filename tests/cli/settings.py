"""The settings class of each command: of those with a config, and of those about grids."""

from importlib import import_module

from psld.commands.main import COMMANDS
from psld.config.locations import CONFIGS
from psld.config.settings import Settings

WITH_CONFIG = {"import": "import_model", "evaluate": "evaluate_cell"}
"""Commands of several programs, and their program that has a config."""


def settings_class(name: str) -> type[Settings]:
    module = import_module(f"psld.commands.{COMMANDS[name]}")
    return getattr(module, WITH_CONFIG.get(name, name)).command.kind


KINDS = {name: settings_class(name) for name in COMMANDS}
COMPOSED = [name for name in COMMANDS if (CONFIGS / f"{name}.yaml").exists()]
OF_GRIDS = [name for name in COMMANDS if name not in COMPOSED]
