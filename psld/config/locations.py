"""The config folders: shipped configs inside the package, and the user's configs in ./configs."""

from collections import Counter
from pathlib import Path

from psld.utils.files import files_below

CONFIGS = (Path(__file__).parents[1] / "configs").resolve()
"""The folder of shipped configs. In a checkout, it is a link to the top-level folder configs/."""

SHIPPED = CONFIGS.parent
"""The folder that contains workflow/, profiles/ and envs/: a checkout or the installed package."""


def config_folders() -> list[Path]:
    """Return the config folders in order of precedence: ./configs if it exists, then `CONFIGS`."""
    own = Path("configs").resolve()
    return [own, CONFIGS] if own.is_dir() and own != CONFIGS else [CONFIGS]


def config_file(group: str, name: str) -> Path | None:
    """Return GROUP/NAME.yaml in the first config folder that has this file; None if none has it."""
    files = (folder / group / f"{name}.yaml" for folder in config_folders())
    return next((file for file in files if file.is_file()), None)


def config_names(group: str) -> list[str]:
    """Return the names of all configs of a group.

    Symbolic links are followed, and hidden files are ignored.
    """
    files = (file for folder in config_folders() for file in (folder / group).glob("[!.]*.yaml"))
    return sorted({file.stem for file in files if file.is_file()})


def config_files() -> dict[str, Path]:
    """Return the paths of all config files.

    The key of a path contains the name of the file and whether the config is shipped, but not the
    location of the config folder.
    """
    return {
        f"{folder == CONFIGS}/{name}": folder / name
        for folder in config_folders()
        for name, _ in sorted(files_below(folder, Counter()))
        if name.endswith(".yaml")
    }
