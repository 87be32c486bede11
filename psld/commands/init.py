"""Make a folder for a project of your own: Snakefile, profiles, an example grid, a README.

    psld init mine

The folder must be new or empty. The rules and all other configs stay in the package.
"""

import shutil
from pathlib import Path

from psld.commands.entry import entry_point
from psld.config.locations import SHIPPED
from psld.config.settings import Settings
from psld.utils.errors import UserError


class InitSettings(Settings):
    """Settings of `psld init`."""

    folder: tuple[Path, ...]
    """Path of the new folder."""


@entry_point("init", InitSettings, bare="folder", has_config=False)
def main(settings: InitSettings) -> None:
    if len(settings.folder) != 1:
        raise UserError("folder: give one folder")
    [folder] = settings.folder
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise UserError(f"{folder}: exists and is not an empty folder; give a new one")
    shutil.copytree(SHIPPED / "workflow/project", folder, dirs_exist_ok=True)
    shutil.copytree(SHIPPED / "profiles", folder / "profiles")
    print(f"{folder}/README.md says how to go on")
