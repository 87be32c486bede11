"""The settings class of each command: of those with a config, and of those about grids."""

from typing import get_args, get_type_hints

from psld.commands.main import COMMANDS, import_command
from psld.config.locations import CONFIGS
from psld.config.settings import Settings


def settings_class(name: str) -> type[Settings]:
    module = import_command(name)
    programs = (getattr(module, name, None) for name in ("import_model", "evaluate_cell", "main"))
    hint = get_type_hints(next(filter(None, programs)).__wrapped__)["settings"]
    return get_args(hint)[-1] if get_args(hint) else hint


KINDS = {name: settings_class(name) for name in COMMANDS}
COMPOSED = [name for name in COMMANDS if (CONFIGS / f"{name}.yaml").exists()]
OF_GRIDS = [name for name in COMMANDS if name not in COMPOSED]
