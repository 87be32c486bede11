"""A rehearsal of a grid: all its models and cells, so small that everything runs in minutes.

Networks keep their kind (embedding, resampling, progressive input) but shrink. Imports no torch,
because every Snakemake process loads the grids.
"""

from typing import Any

from pydantic import Field

from psld.config.settings import Settings
from psld.grid.schema import GridFile


class Rehearsal(Settings):
    """The contents of configs/grid/NAME.yaml for a grid that rehearses another one."""

    rehearses: str
    """Name of the grid to rehearse."""
    models: tuple[str, ...]
    """Overrides that follow those of each model and guide."""
    budgets: dict[str, str | int]
    """The value for each kind of budget, in place of the one in the sampler's name."""
    samples: int = Field(ge=3)
    """Samples per cell."""
    shard_size: int = Field(ge=1)
    batch_size: int = Field(ge=1)


def rehearsal_content(name: str, rehearsal: Rehearsal, file: GridFile) -> dict[str, Any]:
    """Return the content of a full grid file for a rehearsal.

    Its tables and figures are named NAME-TABLE and NAME-FIGURE, because those of all grids are
    Snakemake targets. Nothing is imported, because no official checkpoint fits the small networks.
    """
    content = file.model_dump(mode="json")
    content["title"] = f"Rehearsal of: {file.title}"
    content["question"] = "Do all steps work? The networks are tiny: the numbers mean nothing."
    for size in ("samples", "shard_size", "batch_size"):
        content[size] = getattr(rehearsal, size)
    for trained in (*content["models"].values(), *content["guides"].values()):
        trained |= {
            "overrides": [*trained["overrides"], *rehearsal.models],
            "checkpoint": None,
            "of": None,
        }
    content["likelihood"] = [*file.likelihood, f"images={rehearsal.samples}", "tolerance=0.1"]
    for sampler in content["samplers"].values():
        sampler["spends"] = rehearsal.budgets.get(sampler["budget"])
    for table in content["tables"].values():
        table |= {
            "title": f"Rehearsal of: {table['title']}",
            "caption": "Tiny networks, hardly trained: the numbers mean nothing.",
            "band": None,
        }
        for entry in (table["cell"], *table["rows"], *table["columns"]):
            entry["samples"] = None
    for kind in ("tables", "figures"):
        content[kind] = {f"{name}-{key}": made for key, made in content[kind].items()}
    return content
