"""Training curves: the loss of each model over its steps."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from psld.utils.errors import UserError
from psld.grid.figures import trained_models
from psld.report.panels import Curve, Points, View, draw_panels
from psld.report.style import model_looks
from psld.utils.files import read_json
from psld.grid.loading import Grid

MOST = 60
"""Points of a curve at most; each is a mean over steps of about the same ratio."""


def plot_training(grid: Grid, models: Path) -> Figure | None:
    """One panel a dataset, one line a model. None where no model has been trained."""
    looks = model_looks(grid)
    curves: dict[str, list[Curve]] = {}
    for name in trained_models(grid):
        path = models / name / "history.json"
        points = thinned(read_history(path)) if path.exists() else []
        if points:
            marked = max(1, len(points) // 8)
            curve = Curve(name, looks[name], points, marked=marked)
            curves.setdefault(grid.models[name].dataset, []).append(curve)
    views = [View(dataset, "all", "training loss", lines) for dataset, lines in curves.items()]
    return draw_panels(views, "training step", _logarithmic) if views else None


def read_history(path: Path) -> Points:
    """Step and loss, as training logged them. Raises UserError for a file of another kind."""
    try:
        return [(entry["step"], entry["loss"]) for entry in read_json(path)]
    except (TypeError, KeyError):
        raise UserError(f"{path}: not the history of a training; train the model anew") from None


def thinned(points: Points) -> Points:
    """At most MOST points, at distances that look even on a logarithmic axis."""
    if len(points) <= MOST:
        return points
    steps, losses = np.array(points).T
    edges = np.geomspace(steps[0], steps[-1], MOST + 1)[1:-1]
    bins = np.digitize(steps, edges)
    counts = np.bincount(bins)
    means = [np.bincount(bins, values)[counts > 0] for values in (steps, losses)]
    return [tuple(pair) for pair in (np.stack(means) / counts[counts > 0]).T.tolist()]


def _logarithmic(axes: Axes, _: list[float]) -> None:
    axes.set_xscale("log")
