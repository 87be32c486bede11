"""Load a grid from its file, or from the cache if no config has changed.

Composing a grid takes seconds to minutes, and every Snakemake process loads all grids. The cache
has one file for each grid: the digest of all configs, the checked grid, and the content of each
model, sampler and metric. If nothing has changed, only the grid is read. If the grid's file has
changed, only its new parts are composed.
"""

import hashlib
import itertools
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import pydantic
import yaml

from psld.config.locations import config_file, config_folders, config_names
from psld.config.overrides import take
from psld.config.settings import Settings, parse
from psld.grid.rehearsal import Rehearsal, rehearsal_content
from psld.grid.resolved import Grid
from psld.grid.schema import GridFile
from psld.grid.templates import expand_templates
from psld.utils.errors import UserError
from psld.utils.files import digest_of, write_text

CACHE = Path(".cache/grids")


class GridCommandSettings(Settings):
    """The settings of every command about a grid's results."""

    grid_name: str
    """Name of the grid, configs/grid/NAME.yaml."""
    cells: Path
    """Folder of the grid's metrics files."""


def load_grid(name: str) -> Grid:
    """Load configs/grid/NAME.yaml from the cache, or compose it if a config has changed.

    Raises UserError, with file and key, for anything that does not compose.
    """
    path, cached = _path(name), CACHE / f"{name}.json"
    digest = _digest(_code(), _configs())
    grid, made = _read_cache(cached, digest)
    if grid is not None:
        return grid
    # Hydra is slow to import, and a cached grid does not need it.
    from psld.grid.composing import Compositions
    from psld.grid.resolution import compose_grid

    # Models, samplers and metrics do not depend on the files of grids.
    others = (file for file in _configs() if file.parent.name != "grid")
    compositions = Compositions(_digest(_code(), others), made)
    grid = compose_grid(name, _read(path), path, compositions)
    write_cache(cached, digest, grid, compositions.made)
    return grid


def write_cache(path: Path, digest: str, grid: Grid, made: dict[str, dict[str, Any]]) -> None:
    """Write a grid's cache file atomically: three lines and, last, their digest.

    The lines are the digest of the configs, the grid, and the contents.
    """
    lines = [digest, grid.model_dump_json(), json.dumps(made)]
    write_text(path, "\n".join([*lines, digest_of(lines)]))


def _read_cache(path: Path, digest: str) -> tuple[Grid | None, dict[str, dict[str, Any]]]:
    """Return the cached grid if it has this digest, or else the contents that it was made of."""
    try:
        *lines, whole = path.read_text().split("\n")
        if whole != digest_of(lines):
            return None, {}
        cached, grid, made = lines
        if cached == digest:
            return Grid.model_validate_json(grid), {}
        return None, json.loads(made)
    except (OSError, ValueError):
        # The file is missing, damaged or from another version of the code: make it again.
        return None, {}


def _path(name: str) -> Path:
    path = config_file("grid", name)
    if path is None or path.stem != name:
        known = ", ".join(config_names("grid"))
        raise UserError(f"configs/grid/{name}.yaml: no such grid; there are: {known}")
    return path


def _read(path: Path) -> GridFile:
    """Read a grid file; if it rehearses another grid, return the rehearsal in full."""
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
    """Fill in the overrides and checkpoints of models that another grid trains."""
    if not isinstance(content.get("models"), dict):
        return content
    models = dict(content["models"])
    for name, entry in models.items():
        if isinstance(entry, dict) and entry.get("of"):
            other = _path(entry["of"])
            if given := sorted(map(str, entry.keys() - {"of"})):
                raise UserError(
                    f"{path}: models.{name}: {', '.join(given)}: the model of {other} is taken as "
                    "it is; for another one, give all overrides and no `of`"
                )
            trained = parse(GridFile, _content(other), where=str(other))
            if name not in trained.trainings or trained.trainings[name].of:
                raise UserError(f"{path}: models.{name}: {other} trains no model of this name")
            models[name] = entry | {
                "overrides": trained.overrides_of_model(name),
                "checkpoint": trained.trainings[name].checkpoint,
            }
    return content | {"models": models}


def _content(path: Path) -> dict[str, Any]:
    try:
        content = yaml.load(path.read_text("utf-8"), _Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: not a grid: settings by their names are needed")
    return expand_templates(content, str(path))


class _Loader(yaml.SafeLoader):
    """Refuses a key that is there twice, and aliases that make the content endless or huge."""

    MAX_VALUES = 1_000_000

    def get_single_node(self) -> yaml.Node | None:
        node = super().get_single_node()
        if node is not None:
            self._size(node, {})
        return node

    def _size(self, node: yaml.Node, known: dict[int, int]) -> int:
        """Return the number of values in a node whose aliases are written out."""
        if id(node) in known:
            return known[id(node)]
        known[id(node)] = self.MAX_VALUES  # for a node that contains itself
        parts = [] if isinstance(node, yaml.ScalarNode) else list(node.value)
        if isinstance(node, yaml.MappingNode):
            names = [key.value for key, _ in parts if isinstance(key, yaml.ScalarNode)]
            if len(set(names)) < len(names):
                raise yaml.MarkedYAMLError(problem="a key twice", problem_mark=node.start_mark)
            parts = [each for pair in parts for each in pair]
        known[id(node)] = size = 1 + sum(self._size(part, known) for part in parts)
        if size > self.MAX_VALUES:
            raise yaml.MarkedYAMLError(problem="too much", problem_mark=node.start_mark)
        return size


def expand_model(arguments: list[str]) -> list[str]:
    """Replace `model=GRID/NAME` by the overrides of that grid's model.

    Other overrides come later and take precedence. Raises UserError for an unknown model.
    """
    return _expand("model", arguments)


def expand_guide(arguments: list[str]) -> list[str]:
    """Replace `guide=GRID/NAME` by the overrides of that grid's guide, like `expand_model`."""
    return _expand("guide", arguments)


def _expand(kind: Literal["model", "guide"], given: list[str]) -> list[str]:
    chosen, others = take(kind, given)
    if chosen is None:
        return given
    grid_name, _, name = chosen.partition("/")
    grid = load_grid(grid_name)
    known = grid.models if kind == "model" else grid.guides
    if name not in known:
        raise UserError(
            f"{kind}={chosen}: no such {kind} in configs/grid/{grid_name}.yaml; "
            f"there are: {', '.join(known)}"
        )
    return [*known[name].overrides, f"grid_name={grid_name}", f"name={name}", *others]


def _configs() -> list[Path]:
    """All config files."""
    return sorted(file for folder in config_folders() for file in folder.rglob("*.yaml"))


def _code() -> list[Path]:
    """The files of the code that reads configs."""
    package = Path(__file__).parents[1]
    code = [*(package / "grid").glob("*.py"), *(package / "config").glob("*.py")]
    return sorted([*code, package / "diffusion" / "samplers.py", *package.glob("*/settings.py")])


def _digest(*files: Iterable[Path]) -> str:
    """Return a digest of the files' names and contents and of Python's and pydantic's versions."""
    digest = hashlib.sha256(f"{sys.version} {pydantic.VERSION}".encode())
    for file in itertools.chain(*files):
        digest.update(str(file).encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()
