"""Loading a grid: from its file, or from the cache if no config has changed since.

Composing a grid takes seconds, and every Snakemake process loads all grids.
"""

import hashlib
from pathlib import Path
from typing import Any, Literal

import yaml

from psld.config.locations import config_file, config_folders, config_names
from psld.config.settings import parse
from psld.grid.rehearsal import Rehearsal, rehearsal_content
from psld.grid.resolved import Grid
from psld.grid.schema import GridFile
from psld.utils.errors import UserError
from psld.utils.files import read_json, write_json

CACHE = Path(".cache/grids")


def load_grid(name: str) -> Grid:
    """Load and compose configs/grid/NAME.yaml; from the cache if no config has changed.

    Raises UserError, naming file and key, for anything that does not compose.
    """
    path = _path(name)
    cached = CACHE / f"{name}-{_digest_of_configs()}.json"
    if cached.exists():
        return parse(Grid, read_json(cached), where=str(cached))
    # Hydra is slow to import, and not needed if the cache answers.
    from psld.grid.resolution import compose_grid

    grid = compose_grid(name, _read(path), path)
    write_json(cached, grid.model_dump(mode="json"))
    return grid


def _path(name: str) -> Path:
    path = config_file("grid", name)
    if path is None:
        known = ", ".join(config_names("grid"))
        raise UserError(f"configs/grid/{name}.yaml: no such grid; there are: {known}")
    return path


def _read(path: Path) -> GridFile:
    """A grid file as it is written, or what it stands for if it rehearses another one."""
    content = _content(path)
    if "rehearses" in content:
        rehearsal = parse(Rehearsal, content, where=str(path))
        rehearsed = _path(rehearsal.rehearses)
        whole = _content(rehearsed)
        if "rehearses" in whole:
            raise UserError(f"{path}: rehearses: {rehearsed} is itself a rehearsal; name a grid")
        whole = parse(GridFile, _with_models_of_others(whole, rehearsed), where=str(rehearsed))
        content = rehearsal_content(path.stem, rehearsal, whole)
    return parse(GridFile, _with_models_of_others(content, path), where=str(path))


def _with_models_of_others(content: dict[str, Any], path: Path) -> dict[str, Any]:
    """The content with the overrides of those models that another grid trains."""
    if not isinstance(content.get("models"), dict):
        return content
    models = dict(content["models"])
    for name, entry in models.items():
        if isinstance(entry, dict) and entry.get("of"):
            other = _path(entry["of"])
            trained = parse(GridFile, _content(other), where=str(other))
            if name not in trained.models or trained.models[name].of:
                raise UserError(f"{path}: models.{name}: {other} trains no model of this name")
            models[name] = entry | {
                "overrides": trained.overrides_of_model(name),
                "checkpoint": trained.models[name].checkpoint,
            }
    return content | {"models": models}


def _content(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: not a grid: settings by their names are needed")
    return content


def expand_model(arguments: list[str]) -> list[str]:
    """Replace `model=GRID/NAME` among overrides by those of that grid's model.

    Other overrides come after them, so they prevail. Raises UserError for an unknown model.
    """
    return _expand("model", arguments)


def expand_guide(arguments: list[str]) -> list[str]:
    """Replace `guide=GRID/NAME` in the same way."""
    return _expand("guide", arguments)


def _expand(kind: Literal["model", "guide"], given: list[str]) -> list[str]:
    chosen = [argument for argument in given if argument.startswith(f"{kind}=")]
    if not chosen:
        return given
    grid_name, _, name = chosen[-1].removeprefix(f"{kind}=").partition("/")
    grid = load_grid(grid_name)
    known = grid.models if kind == "model" else grid.guides
    if name not in known:
        raise UserError(
            f"{kind}={grid_name}/{name}: no such {kind} in configs/grid/{grid_name}.yaml; "
            f"there are: {', '.join(known)}"
        )
    own = [*known[name].overrides, f"grid_name={grid_name}", f"name={name}"]
    return own + [argument for argument in given if argument not in chosen]


def _digest_of_configs() -> str:
    """Digest of every config and of the code that reads them."""
    package = Path(__file__).parents[1]
    code = [*(package / "grid").glob("*.py"), *(package / "config").glob("*.py")]
    code += [package / "sampling" / "fit.py", *package.glob("*/settings.py")]
    configs = [file for folder in config_folders() for file in folder.rglob("*.yaml")]
    digest = hashlib.sha256()
    for file in sorted([*configs, *code]):
        digest.update(str(file).encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()[:16]
