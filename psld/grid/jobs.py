"""The jobs of a grid's records by their names, GRID/NAME: what commands of the workflow look up."""

from collections.abc import Callable, Iterable
from difflib import get_close_matches
from typing import Any

from psld.grid.cache import cached_cell, cached_record, load_grid
from psld.grid.records import Cell, Job, preparation
from psld.utils.errors import UserError

Load = Callable[[str, str | None], Job]
"""Return the job of a record by its name and, if it was planned, the digest of its plan.

A planned job takes its record from the cache as it is. Otherwise the grid is resolved again if a
config has changed. Raises UserError if there is no such record.
"""


def train(name: str, planned: str | None = None) -> Job:
    """Return the job of a model, GRID/MODEL."""
    return _find("model", "models", name, planned, lambda model: model.job)


def train_guide(name: str, planned: str | None = None) -> Job:
    """Return the job of a guide, GRID/GUIDE."""
    return _find("guide", "guides", name, planned, lambda guide: guide.job)


def prepare(name: str, planned: str | None = None) -> Job:
    """Return the job of a dataset, GRID/DATASET."""
    return _find("dataset", "datasets", name, planned, preparation)


def train_extractor(name: str, planned: str | None = None) -> Job:
    """Return the job of a trained extractor, GRID/DATASET/FEATURES."""
    return _find("features", "features", name, planned, lambda features: features.extractor_job)


def reference(name: str, planned: str | None = None) -> Job:
    """Return the job of a reference, GRID/DATASET/FEATURES."""
    return _find("features", "features", name, planned, lambda features: features.reference_job)


def sample(name: str, planned: str | None = None) -> Job:
    """Return the job that samples all shards of a cell, GRID/MODEL/SAMPLER."""
    return find_cell(name, planned, lambda cell: cell.sample_job)


def evaluate(name: str, planned: str | None = None) -> Job:
    """Return the job that evaluates a cell, GRID/MODEL/SAMPLER.

    Raises UserError for a cell that is sampled but has no metric.
    """
    return find_cell(name, planned, _evaluation)


def find_cell(name: str, planned: str | None, job_of: Callable[[Cell], Job]) -> Job:
    grid_name, _, own = name.partition("/")
    cell = cached_cell(grid_name, own) if planned else None
    if cell is not None and (job := job_of(cell)).digest == planned:
        return job
    grid = load_grid(grid_name)
    if own not in grid.cells:
        raise UserError(
            f"cell={name}: no such cell{nearest(own, grid.cells)}; "
            f"psld plan grid_name={grid_name} list=cells lists them"
        )
    return job_of(grid.cells[own])


def _evaluation(cell: Cell) -> Job:
    if not cell.measurements:
        raise UserError(
            f"cell={cell.grid}/{cell.name}: no table shows it, so the grid has no metric for it; "
            f"psld plan grid_name={cell.grid} list=cells lists those with metrics"
        )
    return cell.evaluate_job


def _find(key: str, kind: str, name: str, planned: str | None, job_of: Callable[[Any], Job]) -> Job:
    grid_name, _, own = name.partition("/")
    record = cached_record(grid_name, kind, own) if planned else None
    if record is not None and (job := job_of(record)).digest == planned:
        return job
    records = getattr(load_grid(grid_name), kind)
    if own not in records:
        raise UserError(
            f"{key}={name}: no such {key} in configs/grid/{grid_name}.yaml; "
            f"there are: {', '.join(records)}"
        )
    return job_of(records[own])


def nearest(word: str, names: Iterable[str]) -> str:
    """Return a clause for an error that lists the names most like a word; empty without any."""
    matches = get_close_matches(word, names)
    return f"; the nearest are: {', '.join(matches)}" if matches else ""
