"""The cache of resolved grids, .cache/grids/NAME.json, in which commands look up their jobs.

Resolving a grid takes seconds; reading a resolved grid takes milliseconds. A grid is resolved again
if a config or the code has changed. A job that was planned before the change still reads its record
from the cache.
"""

import errno
import hashlib
import os
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from psld.config.locations import config_files
from psld.config.parts import codes_in
from psld.config.reads import WeightsFile
from psld.config.settings import groups_of, reading_a_file
from psld.grid.cells import Grid
from psld.grid.reading import grid_path, read_grid_file
from psld.grid.records import Job
from psld.utils.code import code_digest, find_code
from psld.utils.errors import UserError, meant
from psld.utils.files import digest_of, write_text

CACHE = Path(".cache/grids")

RECORDS = {
    "dataset": "datasets",
    "features": "features",
    "start": "starts",
    "model": "models",
    "guide": "guides",
    "cell": "cells",
}
"""The attribute of `Grid` that holds the records, keyed by the command-line key of a record."""


def load_grid(name: str) -> Grid:
    """Load configs/grid/NAME.yaml from the cache, or resolve it if a config or code has changed.

    Raises UserError, which names the file and the key, if the grid cannot be resolved.
    """
    path = grid_path(name)
    (known, grid), configs = _read(name), _digest()
    if grid is None or known != configs or not _has_current_code(grid):
        from psld.grid.resolution import resolve

        grid = resolve(name, read_grid_file(path), path)
        text = grid_as_json(grid)
        try:
            write_text(CACHE / f"{name}.json", f"{configs} {digest_of(text)}\n{text}")
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
                raise  # The ignored errors mean that the folder is read-only and needs no cache.
    models = {name: each.with_imported() for name, each in grid.models.items()}
    guides = {name: each.with_imported() for name, each in grid.guides.items()}
    return replace(grid, models=models, guides=guides)


def find_job(key: str, name: str, planned: str | None, kind: str) -> Job:
    """Return the job of a record.

    Args:
        key: the command-line key of the record, such as `cell`.
        name: the name of the record, GRID/NAME.
        planned: the digest of the job when Snakemake planned the job; None for a job by hand.
        kind: the attribute of the record that holds the job, such as `sample_job`.

    Raises UserError if the record does not exist, or if the grid has changed since the job was
    planned.
    """
    grid_name, _, record_name = name.partition("/")
    grid = _read(grid_name)[1] if planned else None
    if grid and (record := getattr(grid, RECORDS[key]).get(record_name)):
        job = getattr(record, kind)
        if job.digest == planned:
            return job
    job = getattr(_found(load_grid(grid_name), key, record_name), kind)
    if planned not in (None, job.digest):
        raise UserError(
            f"{key}={name}: the grid has changed since this job was planned (its record is "
            f"{job.digest}, not {planned}); run Snakemake again"
        )
    return job


def words_of(key: str, name: str) -> list[str]:
    """Return the overrides that compose the model, guide or cell GRID/NAME."""
    grid_name, _, record_name = name.partition("/")
    grid = load_grid(grid_name)
    _found(grid, key, record_name)
    return grid.words(key, record_name)


def _found(grid: Grid, key: str, name: str) -> Any:
    records = getattr(grid, RECORDS[key])
    if name in records:
        return records[name]
    known = f" in configs/grid/{grid.name}.yaml; there are: {', '.join(records)}"
    if key == "cell":
        plan = f"psld plan grid_name={grid.name} list=cells lists them"
        known = f"{meant(name, records)}; {plan}"
    raise UserError(f"{key}={grid.name}/{name}: no such {key}{known}")


def grid_as_json(grid: Grid) -> str:
    return TypeAdapter(Grid).dump_json(grid, indent=2).decode()


def grid_from_json(text: str) -> Grid:
    """Return the grid that `grid_as_json` wrote. Raises UserError for any other text."""
    try:
        with reading_a_file():
            return TypeAdapter(Grid).validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, ("grid", *first["loc"])))
        remedy = "damaged, or written by another version of psld: use that version"
        raise UserError(f"{where}: {first['msg']}; {remedy}") from None


def _read(name: str) -> tuple[str, Grid | None]:
    """Read a grid from the cache, even if the grid is outdated.

    Returns the digest of the code and the configs at the time of caching, and the grid. The grid is
    None if it is not in the cache or cannot be read.
    """
    try:
        header, _, text = (CACHE / f"{name}.json").read_text("utf-8").partition("\n")
        configs, sha256 = header.split(" ")
        return configs, grid_from_json(text) if sha256 == digest_of(text) else None
    except (OSError, ValueError, UserError):
        return "", None


def _has_current_code(grid: Grid) -> bool:
    """Check if the digests of code and weights in a grid match the current files of custom parts.

    A missing file counts as a match, because tables and pages need no code. Jobs that need the
    missing file raise an error.
    """
    records = (grid.models, grid.guides, grid.samplers, grid.metrics, grid.datasets)
    known = {each for named in records for record in named.values() for each in codes_in(record)}
    now = ((find_code(name.partition(":")[0]), digest) for name, digest in known)
    has_code = all(code is None or code.digest == digest for code, digest in now)
    files = {
        (each.path, each.sha256): each
        for named in records
        for each in groups_of(WeightsFile, [*named.values()])
    }
    return has_code and not any(file.has_changed for file in files.values())


def _digest() -> str:
    """Return a digest of the code and of all configs."""
    digest = hashlib.sha256(code_digest().encode())
    for place, file in config_files().items():
        with suppress(
            FileNotFoundError, PermissionError
        ):  # `resolve` reports such a file if the grid needs it.
            digest.update(os.fsencode(place) + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()
