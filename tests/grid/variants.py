"""Variants of a loaded grid, without composing."""

from typing import Any

from psld.grid.resolved import Grid
from psld.grid.schema import GridFile


def grid_with(grid: Grid, **changes: Any) -> Grid:
    """The grid with other values of some fields. (A mere copy would keep what it has computed.)"""
    return Grid(**({key: getattr(grid, key) for key in Grid.model_fields} | changes))


def file_with(grid: Grid, **changes: Any) -> Grid:
    """The grid with a file that says something else."""
    own = {key: getattr(grid.file, key) for key in GridFile.model_fields}
    return grid_with(grid, file=GridFile(**(own | changes)))


def large_grid(grid: Grid, models: int, budgets: int) -> Grid:
    """A grid of `models` × `budgets` cells: copies of the grid's first model and sampler."""
    names = [f"model-{number}" for number in range(models)]
    steps = [2 + number for number in range(budgets)]
    content = grid.file.model_dump(mode="json")
    [model, *_], [family, *_] = grid.models.values(), grid.file.samplers
    first = next(sampler for sampler in grid.samplers if sampler.startswith(f"{family}-"))
    content |= {
        "gallery": f"{family}-2",
        "figures": {},
        "guides": {},
        "models": {name: {"overrides": list(model.overrides)} for name in names},
    }
    content["tables"] = {
        f"{grid.name}-large": {
            "title": "Large",
            "headings": ["model"],
            "cell": {"sampler": family},
            "columns": [{"label": str(n), "budget": n} for n in steps],
            "rows": [{"label": [name], "model": name} for name in names],
        }
    }
    file = GridFile.model_validate(content)
    sampler = grid.samplers[first]
    samplers = {
        f"{family}-{n}": sampler.model_copy(update={"settings": sampler.settings | {"steps": n}})
        for n in steps
    }
    return grid_with(
        grid,
        file=file,
        models=dict.fromkeys(names, model),
        guides={},
        samplers=samplers,
    )
