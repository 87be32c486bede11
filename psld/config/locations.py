"""Where configs lie: the shipped ones inside the package, the user's own in ./configs."""

from pathlib import Path

CONFIGS = (Path(__file__).parents[1] / "configs").resolve()
"""The shipped configs. In a checkout this is its top-level folder, by a link."""


def own_configs() -> Path | None:
    """The folder `configs` of the working directory, unless it is the shipped one."""
    folder = Path("configs").resolve()
    return folder if folder.is_dir() and folder != CONFIGS else None


def config_folders() -> list[Path]:
    """All folders of configs, by precedence."""
    own = own_configs()
    return [CONFIGS] if own is None else [own, CONFIGS]


def config_file(group: str, name: str) -> Path | None:
    """The file configs/GROUP/NAME.yaml of the first folder that has it."""
    files = (folder / group / f"{name}.yaml" for folder in config_folders())
    return next((file for file in files if file.is_file()), None)


def config_names(group: str) -> list[str]:
    """The names of all configs of a group, sorted."""
    files = (file for folder in config_folders() for file in (folder / group).glob("*.yaml"))
    return sorted({file.stem for file in files})
