"""The settings class of each command: of those with a config, and of those about grids."""

from psld.commands.main import COMMANDS, program
from psld.config.locations import CONFIGS
from psld.config.settings import Settings

KINDS: dict[str, type[Settings]] = {name: program(name).command.kind for name in COMMANDS}
COMPOSED = [name for name in COMMANDS if (CONFIGS / f"{name}.yaml").exists()]
OF_GRIDS = [name for name in COMMANDS if name not in [*COMPOSED, "evaluate_cell"]]
