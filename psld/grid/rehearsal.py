"""A rehearsal of a grid: each of its models and cells, made so small that all run in minutes.

Networks keep their kind (embedding, resampling, progressive input) and lose their size. Imports no
torch: every Snakemake process loads the grids.
"""

from typing import TYPE_CHECKING, Any

from pydantic import Field

from psld.config.settings import Settings

if TYPE_CHECKING:
    from psld.grid.schema import GridFile


class Rehearsal(Settings):
    """configs/grid/NAME.yaml of a grid that rehearses another one."""

    rehearses: str
    """The grid."""
    models: tuple[str, ...]
    """Overrides that come after the own ones of each model and of each guide."""
    budgets: dict[str, str | int]
    """What each kind of budget is instead, whatever the sampler's name says."""
    samples: int = Field(ge=2)
    """Samples per cell."""
    shard_size: int = Field(ge=1)
    batch_size: int = Field(ge=1)


def rehearsal_content(name: str, rehearsal: Rehearsal, file: "GridFile") -> dict[str, Any]:
    """The content of the grid file that `rehearsal` stands for.

    Its tables and figures are named NAME-TABLE and NAME-FIGURE: those of all grids are targets of
    Snakemake. Nothing is imported, since no official checkpoint fits the small networks.
    """
    content = file.model_dump(mode="json")
    for size in ("samples", "shard_size", "batch_size"):
        content[size] = getattr(rehearsal, size)
    for trained in (*content["models"].values(), *content["guides"].values()):
        trained |= {
            "overrides": [*trained["overrides"], *rehearsal.models],
            "checkpoint": None,
            "of": None,
        }
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
