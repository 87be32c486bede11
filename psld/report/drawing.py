"""Draw any figure of a grid from its results."""

from pathlib import Path

from matplotlib.figure import Figure

from psld.diffusion.samplers import SamplerSettings
from psld.grid.figures import GridFigure, all_figures
from psld.grid.records import Grid
from psld.metrics.results import CellResults
from psld.report.galleries import draw_comparison, draw_nearest, draw_shard, originals_of
from psld.report.plots import plot_gamma, plot_nfe, plot_training
from psld.sampling.records import records_of
from psld.sampling.shards import read_shard, shard_path
from psld.utils.errors import UserError

ROWS, COLUMNS = 12, 16  # most rows, and images per row, of a figure of samples
COMPARED = 14  # images per row of a comparison


def draw_figure(grid: Grid, name: str, device: str) -> Figure:
    """Draw a figure of a grid.

    Raises UserError if the grid has no such figure, or nothing to show in it yet.
    """
    figures = all_figures(grid)
    if name not in figures:
        known = ", ".join(figures) or "none"
        raise UserError(f"figure: grid {grid.name} has no {name!r}; there are: {known}")
    figure = figures[name]
    match figure.kind, name:
        case "plot", "nfe":
            return plot_nfe(grid)
        case "plot", "gamma":
            return plot_gamma(grid)
        case "plot", "training":
            return plot_training(grid)
        case "samples", _:
            return _draw_samples(figure)
        case "nearest", _:
            return _draw_nearest(figure)
        case "comparison", _:
            files = {label: shard_path(cell.folder, 0) for label, cell in figure.cells.items()}
            # A record says that its shards are there, even if they are not visible here yet.
            shards = {
                label: read_shard(path)
                for label, path in files.items()
                if path.exists() or records_of(path.parent, 0)
            }
            if not shards:
                raise UserError(f"no samples of figure {name} yet")
            return draw_comparison(shards, figure.title, COMPARED)
    cell = grid.gallery(figure.model)
    sampler, size = cell.sampler.settings, cell.options.shard_size
    return draw_path(cell.model.folder, sampler, figure.title, device, size, cell.seed)


def _draw_samples(figure: GridFigure) -> Figure:
    cell = figure.cell
    path = shard_path(cell.folder, 0)
    shard = read_shard(path)
    split = getattr(cell.sampler.settings.guidance, "split", "test")
    originals = originals_of(shard, path, cell.datasets.get("data"), split)
    return draw_shard(shard, figure.title, ROWS, COLUMNS, originals)


def _draw_nearest(figure: GridFigure) -> Figure:
    cell = figure.cell
    measurement = next(m for m in cell.measurements if m.metric.measure.kind == "memorization")
    file = Path(cell.result)
    results = CellResults.read(file) if file.exists() else None
    result = results and results.of(measurement.digest(cell.digest))
    if result is None:
        raise UserError(f"{file}: not evaluated yet")
    data, size = cell.model.settings.data, cell.options.shard_size
    return draw_nearest(result.nearest, Path(cell.folder), size, data, figure.title)


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
