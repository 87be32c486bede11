"""The config folders: shipped configs inside the package, and the user's configs in ./configs."""

from collections import Counter
from pathlib import Path

from psld.utils.files import files_below

CONFIGS = (Path(__file__).parents[1] / "configs").resolve()
"""The folder of shipped configs. In a checkout, it is a link to the top-level folder configs/."""

SHIPPED = CONFIGS.parent
"""The folder that contains workflow/, profiles/ and envs/: the checkout or the package."""


def config_folders() -> list[Path]:
    """Return the config folders by precedence: ./configs, if it exists, and the shipped configs."""
    own = Path("configs").resolve()
    return [own, CONFIGS] if own.is_dir() and own != CONFIGS else [CONFIGS]


def config_file(group: str, name: str) -> Path | None:
    """Return configs/GROUP/NAME.yaml from the first folder that has it; None if it is missing."""
    files = (folder / group / f"{name}.yaml" for folder in config_folders())
    return next((file for file in files if file.is_file()), None)


def config_names(group: str) -> list[str]:
    """Return the names of the configs of a group. Links are followed; hidden files are ignored."""
    files = (file for folder in config_folders() for file in (folder / group).glob("[!.]*.yaml"))
    return sorted({file.stem for file in files if file.is_file()})


def config_files() -> dict[str, Path]:
    """Return all config files. Their keys do not depend on the location of the folders."""
    return {
        f"{folder == CONFIGS}/{name}": folder / name
        for folder in config_folders()
        for name, _ in sorted(files_below(folder, Counter()))
        if name.endswith(".yaml")
    }
