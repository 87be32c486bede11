"""The folders of configs: the shipped ones inside the package, the user's own in ./configs."""

from collections import Counter
from pathlib import Path

from psld.utils.files import files_below

CONFIGS = (Path(__file__).parents[1] / "configs").resolve()
"""The shipped configs. In a checkout, a link leads to its top-level folder."""

SHIPPED = CONFIGS.parent
"""The folder of workflow/, profiles/ and envs/: the checkout, or the package in a wheel."""


def config_folders() -> list[Path]:
    """Return the folders of configs, by precedence: ./configs, if there is one, and the shipped."""
    own = Path("configs").resolve()
    return [own, CONFIGS] if own.is_dir() and own != CONFIGS else [CONFIGS]


def config_file(group: str, name: str) -> Path | None:
    """Return configs/GROUP/NAME.yaml from the first folder that has it; None if none has it."""
    files = (folder / group / f"{name}.yaml" for folder in config_folders())
    return next((file for file in files if file.is_file()), None)


def config_names(group: str) -> list[str]:
    """Return the names of a group's configs: regular files, links followed, none hidden."""
    files = (file for folder in config_folders() for file in (folder / group).glob("[!.]*.yaml"))
    return sorted({file.stem for file in files if file.is_file()})


def config_files() -> dict[str, Path]:
    """Return all configs by their places, which a copy of the folder has too."""
    return {
        f"{folder == CONFIGS}/{name}": folder / name
        for folder in config_folders()
        for name, _ in sorted(files_below(folder, Counter()))
        if name.endswith(".yaml")
    }
