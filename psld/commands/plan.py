"""Plan a grid: its models, cells, jobs and GPU hours.

    psld plan grid_name=paper
    psld plan grid_name=paper sustained_tflops=100   # for networks that have not been run here
    psld plan grid_name=demo list=cells              # each is a target of Snakemake

GPU hours follow from the speed of what has been run here, or else from a GPU's TFLOP/s.
"""

from psld.commands.entry import entry_point
from psld.grid.cache import load_grid
from psld.grid.figures import all_figures
from psld.grid.plan import PlanSettings, plan
from psld.grid.records import Guide, Model


@entry_point("plan", PlanSettings, has_config=False)
def main(settings: PlanSettings) -> None:
    grid = load_grid(settings.grid_name)
    match settings.list:
        case "cells":
            print("\n".join(f"{grid.name}/{cell.name}" for cell in grid.measured_cells))
        case "figures":
            print("\n".join(all_figures(grid)))
        case None:
            print(plan(grid, settings, forward_gigaflops))


def forward_gigaflops(trained: Model | Guide) -> float:
    """Return the GFLOPs of one image through a network; a multiply-add counts as two."""
    # torch takes longer to import than everything else here, and only the cost needs it.
    import torch

    from psld.training.model import build_guide, build_network, forward_flops

    build = build_network if isinstance(trained, Model) else build_guide
    process = trained.settings.process.build()
    with torch.device("meta"):
        return forward_flops(build(trained.settings, process).eval()) / 1e9
