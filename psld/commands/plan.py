"""Plan a grid: its models, cells, jobs and GPU hours.

    psld plan grid_name=paper
    psld plan grid_name=paper throughput.cifar10-sota.train=900   # images/s of one GPU
    psld plan grid_name=demo list=cells                           # each is a target of Snakemake

GPU hours need throughputs: those given, or else those of what has been run here.
"""

from psld.commands.entry import adding, entry_point
from psld.grid.composing import compose_guide, compose_model
from psld.grid.figures import figures_of
from psld.grid.loading import load_grid
from psld.grid.plan import Kind, PlanSettings, plan_of
from psld.grid.resolved import ComposedTraining


@entry_point("plan", PlanSettings, rewrite=adding("throughput"))
def main(settings: PlanSettings) -> None:
    grid = load_grid(settings.grid_name)
    match settings.list:
        case "cells":
            print("\n".join(f"{grid.name}/{cell}" for cell in grid.cells))
        case "figures":
            print("\n".join(figures_of(grid)))
        case None:
            print(plan_of(grid, settings, forward_gigaflops))


def forward_gigaflops(kind: Kind, trained: ComposedTraining) -> float:
    """Return the GFLOPs of one image through a network; a multiply-add counts as two."""
    # torch takes longer to import than everything else here, and only the cost needs it.
    import torch

    from psld.training.model import build_guide, build_network, forward_flops

    if kind == "model":
        settings, build = compose_model(trained.overrides, kind), build_network
    else:
        settings, build = compose_guide(trained.overrides, kind), build_guide
    process = settings.process.build()
    with torch.device("meta"):
        return forward_flops(build(settings, process).eval()) / 1e9
