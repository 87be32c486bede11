"""The jobs of a grid's records by their names, GRID/NAME: the jobs that commands look up."""

from collections.abc import Iterable
from difflib import get_close_matches

from psld.grid.cache import cached, load_grid
from psld.grid.records import Job
from psld.utils.errors import UserError


def find_job(key: str, name: str, planned: str | None, kind: str, job: str) -> Job:
    """Return the job of a record, GRID/NAME.

    A planned job takes its record from the cache as it is. Otherwise the grid is resolved again if
    a config has changed.

    Args:
        key: the word for the record on a command line, such as `cell`.
        planned: the digest that the job had when it was planned; None if it was not.
        kind, job: attributes of `Grid` and of the record, such as `cells` and `sample_job`.

    Raises:
        UserError: there is no such record, or it has another digest than the planned one, because
            the grid has changed since.
    """
    grid_name, _, record_name = name.partition("/")
    if planned and (record := cached(grid_name, kind, record_name)):
        settings, digest = getattr(record, job)
        if digest == planned:
            return Job(settings, digest)
    records = getattr(load_grid(grid_name), kind)
    if record_name not in records:
        known = f" in configs/grid/{grid_name}.yaml; there are: {', '.join(records)}"
        if kind == "cells":
            plan = f"psld plan grid_name={grid_name} list=cells lists them"
            known = f"{nearest(record_name, records)}; {plan}"
        raise UserError(f"{key}={name}: no such {key}{known}")
    settings, digest = getattr(records[record_name], job)
    if planned not in (None, digest):
        raise UserError(
            f"{key}={name}: the grid has changed since this job was planned (its record is "
            f"{digest}, not {planned}); run Snakemake again"
        )
    return Job(settings, digest)


def nearest(word: str, names: Iterable[str]) -> str:
    """Return a clause for an error that lists the names most like a word; empty without any."""
    matches = get_close_matches(word, names)
    return f"; the nearest are: {', '.join(matches)}" if matches else ""
