"""A grid file → models, samplers, cells and tables. Imports no torch: every Snakemake process does.

A grid (configs/grid/NAME.yaml) names models and samplers by the same Hydra overrides that the
command line takes, and tables whose entries are cells: a model, a sampler and its budget. Composing
them takes seconds, so the result is cached under the digest of all configs.
"""

import hashlib
from pathlib import Path
from typing import Any, Literal

import yaml

from psld.errors import UserError
from psld.files import read_json, write_json
from psld.grid_file import Evaluation, GridFile
from psld.rehearsal import Rehearsal, rehearsal_content
from psld.samplers.settings import shards_needed
from psld.settings import Settings, parse

CACHE = Path(".cache/grids")


class ComposedTraining(Settings):
    """A model or a classifier with everything resolved."""

    overrides: tuple[str, ...]
    checkpoint: str | None
    dataset: str
    settings: dict[str, Any]
    """What decides the weights."""


class ComposedSampler(Settings):
    overrides: tuple[str, ...]
    settings: dict[str, Any]
    classifier: str | None
    """The classifier of the grid that guides it."""

    @property
    def guidance(self) -> str:
        """The kind of its guidance."""
        return self.settings["guidance"]["kind"]

    @property
    def mask(self) -> dict[str, Any]:
        """The settings of the mask that it inpaints with; empty where it does not."""
        return self.settings["guidance"].get("mask", {})


class Grid(Settings):
    """A grid with everything resolved."""

    name: str
    file: GridFile
    models: dict[str, ComposedTraining]
    classifiers: dict[str, ComposedTraining]
    samplers: dict[str, ComposedSampler]
    datasets: dict[str, dict[str, Any]]
    """What the preparation of each dataset depends on."""
    metrics: dict[str, dict[str, Any]]
    """Settings of each metric."""
    evaluations: tuple[Evaluation, ...]

    @property
    def cells(self) -> list[str]:
        """Names of all cells, MODEL/SAMPLER, in the order of the tables."""
        return list(dict.fromkeys(evaluation.cell for evaluation in self.evaluations))

    def evaluations_of(self, cell: str) -> list[Evaluation]:
        return [evaluation for evaluation in self.evaluations if evaluation.cell == cell]

    def shards_of(self, evaluation: Evaluation) -> int:
        """How many shards an evaluation reads."""
        return shards_needed(evaluation.samples, self.file.shard_size)

    def table_evaluations(self, table: str) -> list[list[Evaluation | None]]:
        """The evaluation behind each entry of a table, row by row; None where there is none."""
        return self.file.table_evaluations(table)


def load_grid(name: str, configs: Path) -> Grid:
    """Load and compose configs/grid/NAME.yaml; from the cache where no config has changed.

    Raises UserError, naming file and key, for anything that does not compose.
    """
    path = configs / "grid" / f"{name}.yaml"
    if not path.exists():
        known = ", ".join(sorted(p.stem for p in path.parent.glob("*.yaml")))
        raise UserError(f"{path}: no such grid; there are: {known}")
    cached = CACHE / f"{name}-{_digest_of_configs(configs)}.json"
    if cached.exists():
        return parse(Grid, read_json(cached), where=str(cached))
    # Hydra is slow to import, and not needed where the cache answers.
    from psld.compose import compose_grid

    grid = compose_grid(name, _read(path), path, configs)
    write_json(cached, grid.model_dump(mode="json"))
    return grid


def _read(path: Path) -> GridFile:
    """A grid file as it is written, or what it stands for if it rehearses another one."""
    content = _content(path)
    if "rehearses" in content:
        rehearsal = parse(Rehearsal, content, where=str(path))
        rehearsed = path.with_name(f"{rehearsal.rehearses}.yaml")
        whole = _content(rehearsed)
        if "rehearses" in whole:
            raise UserError(f"{path}: rehearses: {rehearsed} is itself a rehearsal; name a grid")
        whole = parse(GridFile, whole, where=str(rehearsed))
        content = rehearsal_content(path.stem, rehearsal, whole)
    return parse(GridFile, content, where=str(path))


def _content(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{path}: no such grid") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: not a grid: settings by their names are needed")
    return content


def expand_model(arguments: list[str], configs: Path) -> list[str]:
    """Replace `model=GRID/NAME` among overrides by those of that grid's model.

    What else is given comes after them, so it prevails. Raises UserError for an unknown model.
    """
    return _expand("model", arguments, configs)


def expand_classifier(arguments: list[str], configs: Path) -> list[str]:
    """The same for `classifier=GRID/NAME`."""
    return _expand("classifier", arguments, configs)


def _expand(kind: Literal["model", "classifier"], given: list[str], configs: Path) -> list[str]:
    chosen = [argument for argument in given if argument.startswith(f"{kind}=")]
    if not chosen:
        return given
    grid_name, _, name = chosen[-1].removeprefix(f"{kind}=").partition("/")
    grid = load_grid(grid_name, configs)
    known = grid.models if kind == "model" else grid.classifiers
    if name not in known:
        raise UserError(
            f"{kind}={grid_name}/{name}: no such {kind} in configs/grid/{grid_name}.yaml; "
            f"there are: {', '.join(known)}"
        )
    own = [*known[name].overrides, f"grid_name={grid_name}", f"name={name}"]
    return own + [argument for argument in given if argument not in chosen]


def _digest_of_configs(configs: Path) -> str:
    """Digest of every config and of the code that reads them."""
    package = Path(__file__).parent
    code = (
        "grid.py",
        "grid_file.py",
        "rehearsal.py",
        "compose.py",
        "settings.py",
        "samplers/fit.py",
    )
    sources = [package / name for name in code]
    digest = hashlib.sha256()
    for file in sorted([*configs.rglob("*.yaml"), *sources, *package.glob("*/settings.py")]):
        digest.update(str(file).encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()[:16]
