"""A cell of a grid on the command line: the overrides behind `cell=GRID/MODEL/SAMPLER`."""

from collections.abc import Iterable
from difflib import get_close_matches

from psld.config.overrides import take
from psld.grid import paths
from psld.grid.loading import load_grid
from psld.grid.resolved import Grid
from psld.sampling.settings import CellSettings
from psld.utils.errors import UserError


def expand_cell(arguments: list[str]) -> list[str]:
    """Replace `cell=GRID/MODEL/SAMPLER` by the overrides of that cell.

    Other overrides come later and take precedence. Raises UserError for an unknown cell, and for
    settings that would make other images in the cell's folder.
    """
    name, others = take("cell", arguments)
    if name is None:
        return arguments
    grid, model, sampler = find_cell(name)
    check_others(name, others)
    return [
        *overrides_of_cell(grid, model, sampler),
        f"batch_size={grid.file.batch_size}",
        f"output={paths.shards_folder(grid.name, model, sampler)}",
        *others,
    ]


def check_others(name: str, others: list[str], always: Iterable[str] = ()) -> None:
    """Check the overrides that are given with a cell.

    Raises UserError for one of the settings in `always`, and, without an output of their own, for
    one that decides the images.
    """
    own = any(word.startswith("output=") for word in others)
    decided = {*always, *([] if own else CellSettings.model_fields.keys() - {"device"})}
    for word in others:
        key = word.partition("=")[0].rpartition("@")[2].lstrip("+~").partition(".")[0]
        if key in decided:
            rest = "" if key in always else ", or give an output=… of its own"
            raise UserError(
                f"{word}: the grid decides this for cell={name}; leave one of them out{rest}"
            )


def overrides_of_cell(grid: Grid, model: str, sampler: str) -> list[str]:
    """Return the overrides that decide a cell's images, with the paths of their origins."""
    chosen = grid.samplers[sampler]
    keys = zip(("data", "mnist"), inpainted_datasets(grid, model, sampler), strict=False)
    return [
        *chosen.overrides,
        f"model={grid.model_folder(model)}",
        *([f"guide={paths.guide_folder(grid.name, chosen.guide)}"] if chosen.guide else []),
        *(f"{key}={paths.dataset(name)}" for key, name in keys),
        f"shard_size={grid.file.shard_size}",
        f"seed={grid.file.seed_of(sampler)}",
    ]


def find_cell(name: str) -> tuple[Grid, str, str]:
    """Return the grid, model and sampler of a cell. Raises UserError if it does not exist."""
    grid_name, _, cell = name.partition("/")
    grid = load_grid(grid_name)
    model, _, sampler = cell.rpartition("/")
    if model not in grid.models or sampler not in grid.samplers:
        near = nearest(
            cell, (f"{model}/{sampler}" for model in grid.models for sampler in grid.samplers)
        )
        raise UserError(
            f"cell={name}: no such cell{near}; "
            f"psld plan grid_name={grid_name} list=cells lists them"
        )
    return grid, model, sampler


def nearest(word: str, names: Iterable[str]) -> str:
    """Return a clause for an error that lists the names most like a word; empty without any."""
    found = get_close_matches(word, names)
    return f"; the nearest are: {', '.join(found)}" if found else ""


def inpainted_datasets(grid: Grid, model: str, sampler: str) -> list[str]:
    """The datasets that an inpainting sampler reads: the model's, and MNIST for its masks."""
    chosen = grid.samplers[sampler]
    names = [grid.models[model].dataset] if chosen.guidance == "inpainting" else []
    return names + (["mnist"] if chosen.mask.get("kind") == "digits" else [])
