"""Variants of a loaded grid, which need no configs."""

from dataclasses import replace
from typing import Any

from psld.grid.records import Grid
from psld.grid.schema import GridFile


def file_with(grid: Grid, **changes: Any) -> Grid:
    """The grid with a file that says something else. (A copy of a file keeps what it computed.)"""
    content = {key: getattr(grid.file, key) for key in GridFile.model_fields}
    return replace(grid, file=GridFile(**(content | changes)))


def large_grid(grid: Grid, models: int, budgets: int) -> Grid:
    """A grid of `models` × `budgets` cells: copies of the grid's first model and sampler."""
    [model, *_], [sampler, *_] = grid.models.values(), grid.samplers.values()
    names, steps = [f"model-{n}" for n in range(models)], range(2, 2 + budgets)
    table = {
        "title": "Large",
        "headings": ["model"],
        "cell": {"sampler": sampler.family},
        "columns": [{"label": str(n), "budget": n} for n in steps],
        "rows": [{"label": [name], "model": name} for name in names],
    }
    content = grid.file.model_dump(mode="json") | {
        "gallery": f"{sampler.family}-2",
        "figures": {},
        "guides": {},
        "models": {name: grid.file.models[model.name].model_dump() for name in names},
        "tables": {f"{grid.name}-large": table},
    }

    def called(name: str) -> dict[str, Any]:
        return {"settings": model.settings.model_copy(update={"name": name})}

    def with_steps(n: int) -> dict[str, Any]:
        settings = sampler.settings.model_copy(update={"steps": n})
        return {"budget": str(n), "settings": settings}

    return replace(
        grid,
        file=GridFile.model_validate(content),
        models={name: model.model_copy(update=called(name)) for name in names},
        guides={},
        samplers={f"{sampler.family}-{n}": sampler.model_copy(update=with_steps(n)) for n in steps},
    )
