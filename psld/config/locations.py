"""The folders of configs: the shipped ones inside the package, the user's own in ./configs."""

from pathlib import Path

CONFIGS = (Path(__file__).parents[1] / "configs").resolve()
"""The shipped configs. In a checkout, a link leads to its top-level folder."""


def config_folders() -> list[Path]:
    """All folders of configs, the first with precedence: ./configs, if there is one, and ours."""
    own = Path("configs").resolve()
    return [own, CONFIGS] if own.is_dir() and own != CONFIGS else [CONFIGS]


def config_file(group: str, name: str) -> Path | None:
    """The file configs/GROUP/NAME.yaml from the first folder that has it."""
    files = (folder / group / f"{name}.yaml" for folder in config_folders())
    return next((file for file in files if file.is_file()), None)


def config_names(group: str) -> list[str]:
    """The names of all configs of a group, sorted."""
    files = (file for folder in config_folders() for file in (folder / group).glob("*.yaml"))
    return sorted({file.stem for file in files})
