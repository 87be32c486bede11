"""Draw the figures of a grid, and rows of sampled images."""

import math
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
from matplotlib.figure import Figure

from psld.config.parts import imported
from psld.data.images import tiled
from psld.data.pictures import AsPictures, pictures_of
from psld.data.store import ImageStore, Split
from psld.diffusion.guidance import Mask
from psld.evaluation.results import CellResults
from psld.grid.cells import Cell, Grid
from psld.grid.figures import GridFigure, all_figures
from psld.report.plots import HOLE_COLOR, PAGE_WIDTH, draw_plot
from psld.sampling.settings import records_of
from psld.sampling.shards import Shard, read_shard, shard_path
from psld.utils.errors import UserError

ROWS, COLUMNS = 12, 16  # the largest number of rows of a shard, and the images per row
COMPARED = 8  # images per row of a comparison: few, so that row names are readable on a phone
REAL = "training images"  # the name of the row of training images
TITLE_HEIGHT = 0.4  # inches
LETTER_WIDTH = 0.085  # inches per letter of a row name
LONGEST_LINE = 28  # largest number of letters per line of a row name


def draw_figure(grid: Grid, name: str) -> Figure:
    """Draw a figure of a grid.

    Raises UserError if the grid has no such figure, or if the figure has nothing to show yet.
    """
    figures = all_figures(grid)
    if name not in figures:
        known = ", ".join(figures) or "none"
        raise UserError(f"figure: grid {grid.name} has no {name!r}; there are: {known}")
    figure = figures[name]
    match figure.kind:
        case "plot":
            return draw_plot(grid, name)
        case "comparison":
            return _draw_comparison(figure)
        case "nearest":
            return _draw_nearest(figure)
    cell = figure.cell
    shard = read_pictures(cell)
    return draw_shard(shard, figure.title, _originals(cell, shard), _real_rows(figure, [cell]))


def read_pictures(cell: Cell, index: int = 0) -> Shard:
    """Read a shard of a cell, with pictures instead of tensors."""
    shard = read_shard(shard_path(cell.folder, index))
    return replace(shard, images=_as_pictures(cell)(shard.images))


def _as_pictures(cell: Cell) -> AsPictures:
    settings = cell.model.settings
    if settings.dataset.dtype == "uint8":
        return lambda images: images
    store = ImageStore.open(settings.data)
    return pictures_of(settings.dataset, store.units, record=store.path.parent)


def _real_rows(
    figure: GridFigure, cells: Sequence[Cell], columns: int = COLUMNS
) -> list[np.ndarray]:
    """Return a row of training images, spread over the split, for each dataset that exists here."""
    shown, rows = {cell.model.settings.data: cell for cell in cells}, []
    for data in figure.datasets:
        if Path(data).exists():
            images = ImageStore.open(data).images("train")
            chosen = images[np.linspace(0, len(images) - 1, columns).astype(int)]
            rows.append(_as_pictures(shown[data])(chosen))
    return rows


def _originals(cell: Cell, shard: Shard) -> np.ndarray | None:
    """Return the originals of a shard's inpainted images; None if the cell is not inpainted."""
    data, guidance = cell.datasets.get("data"), cell.sampler.settings.guidance
    is_picture = cell.model.settings.dataset.dtype == "uint8"
    if data is None or not (guidance.inpaints and is_picture):
        return None
    split, _ = cast(tuple[Split, Mask], imported(guidance).holes)
    store = ImageStore.open(data)
    if store.digest != shard.origin.dataset_digest:
        raise UserError(f"{cell.folder}: inpaints images of another {data}; sample the cell again")
    return store.images(split)[: len(shard.images)]


def draw_shard(
    shard: Shard,
    title: str,
    originals: np.ndarray | None = None,
    real: Sequence[np.ndarray] = (),
) -> Figure:
    """Draw the first images of a shard, above rows of real images.

    Samples that are guided to several classes are drawn in one row per class. Inpainted images are
    drawn in groups of three rows: the images with their holes, the samples, and the originals.
    """
    if originals is not None:
        lines = before_and_after(shard, originals, ROWS, COLUMNS)
        names = ["the hole", "filled in", "original"] * (len(lines) // 3)
    elif shard.labels is not None and len(np.unique(shard.labels)) > 1:
        classes = np.unique(shard.labels)[:ROWS]
        lines = [full_row(shard.images[shard.labels == label], COLUMNS) for label in classes]
        names = [f"class {label}" for label in classes]
    else:
        starts = range(0, len(shard.images), COLUMNS)[:ROWS]
        lines = [full_row(shard.images[start:], COLUMNS) for start in starts]
        names = ["samples", *[""] * (len(lines) - 1)] if real else []
    if originals is None:
        lines, names = [*lines, *real], [*names, *[REAL] * len(real)]
    return draw_images(np.concatenate(lines), COLUMNS, title, names)


def before_and_after(
    shard: Shard, originals: np.ndarray, rows: int, columns: int
) -> list[np.ndarray]:
    """Return RGB rows in groups of three: images with their holes, samples, and originals."""
    known = np.asarray(shard.masks)[:, None] == 1
    masked = np.where(known, shard.images, np.array(HOLE_COLOR, np.uint8)[:, None, None])
    filled, before = (np.broadcast_to(each, masked.shape) for each in (shard.images, originals))
    starts = range(0, len(masked), columns)[: rows // 3]
    parts = masked, filled, before
    return [full_row(part[i : i + columns], columns) for i in starts for part in parts]


def _draw_comparison(figure: GridFigure) -> Figure:
    shards: dict[str, Shard] = {}
    for label, cell in figure.cells.items():
        path = shard_path(cell.folder, 0)
        # If a shard has a record, the shard exists, even if it is not visible on this node yet;
        # `read_shard` waits for it.
        if path.exists() or records_of(path.parent, 0):
            shards[label] = read_pictures(cell)
    if not shards:
        grid = next(iter(figure.cells.values())).grid
        raise UserError(f"samples/{grid}: no samples of figure {figure.name} yet")
    columns = min(COMPARED, max(len(shard.images) for shard in shards.values()))
    real = _real_rows(figure, [*figure.cells.values()], columns)
    lines = [full_row(shard.images, columns) for shard in shards.values()] + real
    names = [*shards, *[REAL] * len(real)]
    return draw_images(np.concatenate(lines), columns, figure.title, names)


def _draw_nearest(figure: GridFigure) -> Figure:
    cell = figure.cell
    measurement = next(m for m in cell.measurements if m.metric.measure.finds_nearest)
    result = CellResults.find(cell.result, cell.record_of(measurement))
    if result is None or result.nearest is None:
        raise UserError(f"{cell.result}: not evaluated yet")
    train = ImageStore.open(cell.model.settings.data).images("train")
    places = [divmod(sample, cell.options.shard_size) for sample, _ in result.nearest]
    shards = {index: read_pictures(cell, index) for index in dict(places)}
    samples = [shards[index].images[row] for index, row in places]
    nearest = _as_pictures(cell)(train[[image for _, image in result.nearest]])
    images = np.stack([*samples, *nearest])
    return draw_images(images, len(places), figure.title, ["sample", REAL])


def full_row(images: np.ndarray, columns: int) -> np.ndarray:
    """Return the first `columns` images, n×C×H×W, padded with white images."""
    white = np.full((columns, *images.shape[1:]), 255, np.uint8)
    return np.concatenate([images, white])[:columns]


def _wrapped(name: str) -> Iterator[str]:
    for line in name.splitlines():
        yield from textwrap.wrap(line, LONGEST_LINE)


def draw_images(images: np.ndarray, columns: int, title: str, names: Sequence[str] = ()) -> Figure:
    """Draw images, uint8, N×C×H×W, in rows of `columns` images.

    Args:
        names: the names of the rows, drawn to the left of each row.
    """
    pixels = tiled(images, columns)
    height, width, _ = pixels.shape
    names = ["\n".join(_wrapped(name)) for name in names]
    letters = (len(line) for name in names for line in name.splitlines())
    margin = LETTER_WIDTH * max(letters, default=0)
    inches = PAGE_WIDTH - margin
    total = inches * height / width + TITLE_HEIGHT
    figure = Figure(figsize=(PAGE_WIDTH, total))
    axes = figure.add_axes((margin / PAGE_WIDTH, 0, inches / PAGE_WIDTH, 1 - TITLE_HEIGHT / total))
    rgb = np.broadcast_to(pixels, (height, width, 3))
    axes.imshow(rgb, interpolation="none", aspect="auto")
    axes.set_title(title, parse_math=False)
    axes.set_xticks([])
    row = height / math.ceil(len(images) / columns)
    axes.set_yticks([(i + 0.5) * row - 0.5 for i in range(len(names))], names, parse_math=False)
    axes.tick_params(length=0)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    return figure
