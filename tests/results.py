"""What tests write in the place of a cell's metrics file."""

from typing import Any

from psld.grid.loading import Grid


def made_with(grid: Grid, cell: str) -> dict[str, Any]:
    """The part of a metrics file that says what it was made with: here, with what the grid says."""
    model, name = cell.split("/")
    sampler = grid.samplers[name]
    guide = sampler.guide and {"settings": grid.guides[sampler.guide].settings}
    return {
        "model": {"settings": grid.models[model].settings, "weights_sha256": "0" * 64},
        "guide": guide,
        "sampler": sampler.settings,
        "metric": grid.metrics[grid.file.metric],
        "seed": grid.file.seed,
    }
