"""Draw any figure of a grid from its results."""

from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure
from pydantic import TypeAdapter

from psld.diffusion.samplers import SamplerSettings
from psld.grid.figures import evaluation_of_memorization, figures_of
from psld.grid.resolved import Grid
from psld.grid.results import read_result
from psld.report.galleries import draw_comparison, draw_nearest, draw_shard, originals_of
from psld.report.plots import plot_gamma, plot_nfe, plot_training
from psld.sampling.records import records_of
from psld.sampling.shards import read_shard, shard_path
from psld.utils.errors import UserError

ROWS, COLUMNS = 12, 16  # most rows, and images per row, of a figure of samples
COMPARED = 14  # images per row of a comparison


@dataclass(frozen=True)
class Folders:
    """The folders of a grid's results."""

    cells: Path
    models: Path
    samples: Path
    data: str | None  # the prepared dataset, of inpainted images or of nearest ones


def draw_figure(grid: Grid, name: str, folders: Folders, device: str) -> Figure:
    """Draw a figure of a grid.

    Raises UserError if the grid has no such figure, or nothing to show in it yet.
    """
    figures = figures_of(grid)
    if name not in figures:
        known = ", ".join(figures) or "none"
        raise UserError(f"figure: grid {grid.name} has no {name!r}; there are: {known}")
    figure = figures[name]
    match figure.kind, name:
        case "plot", "nfe":
            return plot_nfe(grid, folders.cells)
        case "plot", "gamma":
            return plot_gamma(grid, folders.cells)
        case "plot", "training":
            return plot_training(grid, folders.models)
        case "samples", _:
            [cell] = figure.cells.values()
            path = shard_path(folders.samples / cell, 0)
            shard = read_shard(path)
            guidance = grid.samplers[cell.rpartition("/")[2]].settings["guidance"]
            originals = originals_of(shard, path, folders.data, guidance.get("split", "test"))
            return draw_shard(shard, figure.title, ROWS, COLUMNS, originals)
        case "nearest", _:
            [cell] = figure.cells.values()
            evaluation = evaluation_of_memorization(grid, cell)
            result = read_result(grid, folders.cells, evaluation)
            if result is None:
                raise UserError(f"{folders.cells / cell}.json: not evaluated yet")
            folder, size = folders.samples / cell, grid.file.shard_size
            return draw_nearest(result.nearest, folder, size, folders.data, figure.title)
        case "comparison", _:
            paths = {n: shard_path(folders.samples / cell, 0) for n, cell in figure.cells.items()}
            # A record says that its shards are there, even if they are not visible here yet.
            shards = {
                n: read_shard(path)
                for n, path in paths.items()
                if path.exists() or records_of(path.parent, 0)
            }
            if not shards:
                raise UserError(f"{folders.samples}: no samples of figure {name} yet")
            return draw_comparison(shards, figure.title, COMPARED)
    trained_by = grid.models[figure.model].of
    models = folders.models.parent / trained_by if trained_by else folders.models
    sampler = TypeAdapter(SamplerSettings).validate_python(
        grid.samplers[grid.file.gallery].settings
    )
    size, seed = grid.file.shard_size, grid.file.seed
    return draw_path(str(models / figure.model), sampler, figure.title, device, size, seed)


def draw_path(
    model: str,
    sampler: SamplerSettings,
    title: str,
    device: str,
    shard_size: int,
    seed: int,
    sample: int = 0,
    times: int = 10,
    pixels: int = 3,
) -> Figure:
    """Sample an image of a cell again and draw its path through phase space.

    Args:
        shard_size: images per shard of the cell, whose noise comes from `seed`.
        sample: index of the image in the cell.
        times: number of states shown as images, from noise to data.
        pixels: number of pixels to follow.
    """
    # Only this figure needs torch, which takes a second to import.
    from psld.report.phase_space import draw_trace
    from psld.sampling.sample import trace_sample
    from psld.training.model import load_model
    from psld.utils.device import use_device

    loaded = load_model(model, use_device(device, tf32=True))
    try:
        path = trace_sample(loaded, sampler, sample, shard_size, seed)
    except UserError as error:
        raise UserError(f"{model}: {error}") from None
    return draw_trace(*path, times, pixels, title)
