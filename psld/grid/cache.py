"""The resolved grids on disk, .cache/grids/NAME.db: a job reads its own record there.

Resolving a grid takes seconds. Its file is a SQLite database with the records by kind and name, and
a digest of these, of the configs and of the code. If nothing has changed, only the records are
read. A file that is missing, damaged or out of date is made again.
"""

import hashlib
import sqlite3
import sys
from collections.abc import Iterable
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from psld.config.locations import config_file, config_folders, config_names
from psld.config.settings import Settings
from psld.grid.reading import grid_path, read_grid_file
from psld.grid.records import Cell, Dataset, Features, Grid, Guide, Model, Sampler
from psld.grid.schema import CellOptions, GridFile
from psld.metrics.settings import Measurement, MetricSettings
from psld.utils.errors import UserError
from psld.utils.files import atomic_path, digest_of

CACHE = Path(".cache/grids")

KINDS: dict[str, type[Settings]] = {
    "models": Model,
    "guides": Guide,
    "samplers": Sampler,
    "metrics": MetricSettings,
    "datasets": Dataset,
    "features": Features,
}
"""The records of a grid by the names of its attributes; its cells are made of them."""

UNREADABLE = (sqlite3.Error, OSError, ValueError, LookupError)
"""The errors of a file that is missing, damaged, or of another version of the code."""


class _CellRow(Settings):
    """A cell by the names of its records."""

    model: str
    sampler: str
    guide: str | None
    seed: int
    measurements: tuple[tuple[str, int], ...]
    features: dict[str, str]


def load_grid(name: str) -> Grid:
    """Load configs/grid/NAME.yaml from the cache, or resolve it if a config has changed.

    Raises UserError, with file and key, for anything that does not resolve.
    """
    path, file = grid_path(name), CACHE / f"{name}.db"
    configs = _digest(_configs(name))
    grid = _read(name, file, configs)
    if grid is None:
        from psld.grid.resolution import resolve

        grid = resolve(name, read_grid_file(path), path)
        _write(file, configs, grid)
    return grid


def grid_as_json(grid: Grid) -> str:
    """Return a resolved grid as text, from which `grid_from_json` makes it without its configs."""
    return TypeAdapter(Grid).dump_json(grid, indent=2).decode()


def grid_from_json(text: str) -> Grid:
    """Return the grid of a text. Raises UserError if it is not one of `grid_as_json`."""
    try:
        return TypeAdapter(Grid).validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise UserError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def cached(grid: str, kind: str, name: str) -> Any:
    """Return a record of the cache, whether its grid is up to date or not; None without it.

    Damage shows in the record's digest only.

    Args:
        kind: `cells`, or one of KINDS.
    """
    try:
        with closing(_connect(CACHE / f"{grid}.db")) as database:
            return _cell(database, grid, name) if kind == "cells" else _record(database, kind, name)
    except UNREADABLE:
        return None


def _connect(file: Path) -> sqlite3.Connection:
    # A file never changes: it is replaced. So no locks are needed, which shared disks may lack.
    return sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro&immutable=1", uri=True)


def _content(database: sqlite3.Connection, kind: str, name: str = "") -> str:
    """Return the JSON of one row. Raises KeyError without it."""
    query = "SELECT content FROM records WHERE kind = ? AND name = ?"
    for (content,) in database.execute(query, (kind, name)):
        return content
    raise KeyError(name)


def _record(database: sqlite3.Connection, kind: str, name: str) -> Any:
    return KINDS[kind].model_validate_json(_content(database, kind, name))


def _cell(database: sqlite3.Connection, grid: str, name: str) -> Cell:
    row = _CellRow.model_validate_json(_content(database, "cells", name))
    return Cell(
        grid=grid,
        model=_record(database, "models", row.model),
        sampler=_record(database, "samplers", row.sampler),
        guide=_record(database, "guides", row.guide) if row.guide else None,
        seed=row.seed,
        options=CellOptions.model_validate_json(_content(database, "options")),
        measurements=tuple(
            Measurement(metric=_record(database, "metrics", metric), samples=samples)
            for metric, samples in row.measurements
        ),
        features={
            name: _record(database, "features", place) for name, place in row.features.items()
        },
    )


def _read(name: str, file: Path, configs: str) -> Grid | None:
    """Return the grid of a whole cache file of these configs; None if it is another one."""
    try:
        with closing(_connect(file)) as database:
            *rows, (*_, digest) = database.execute("SELECT * FROM records ORDER BY place")
        if digest != digest_of([configs, rows]):
            return None
        kinds: dict[str, dict[str, Any]] = {kind: {} for kind in KINDS}
        for _, kind, record, content in rows:
            if kind in KINDS:
                kinds[kind][record] = KINDS[kind].model_validate_json(content)
        return Grid(name, GridFile.model_validate_json(rows[0][-1]), **kinds)
    except UNREADABLE:
        return None


def _write(file: Path, configs: str, grid: Grid) -> None:
    """Write the cache file of a grid atomically; its last row is the digest of all."""
    options = grid.file.model_dump_json(include=set(CellOptions.model_fields))
    records = [("file", "", grid.file.model_dump_json()), ("options", "", options)]
    for kind in KINDS:
        named: dict[str, Settings] = getattr(grid, kind)
        records += [(kind, name, record.model_dump_json()) for name, record in named.items()]
    records += [("cells", name, _cell_row(cell)) for name, cell in grid.cells.items()]
    rows = [(place, *record) for place, record in enumerate(records)]
    rows.append((len(rows), "digest", "", digest_of([configs, rows])))
    with closing(sqlite3.connect(":memory:")) as database:
        database.execute(
            "CREATE TABLE records (place INTEGER, kind TEXT, name TEXT, content TEXT, "
            "PRIMARY KEY (kind, name)) WITHOUT ROWID"
        )
        database.executemany("INSERT INTO records VALUES (?, ?, ?, ?)", rows)
        database.commit()
        with atomic_path(file) as partial:
            partial.write_bytes(database.serialize())


def _cell_row(cell: Cell) -> str:
    return _CellRow(
        model=cell.model.name,
        sampler=cell.sampler.name,
        guide=cell.guide and cell.guide.name,
        seed=cell.seed,
        measurements=tuple((m.metric.name, m.samples) for m in cell.measurements),
        features={name: f"{cell.model.dataset}/{name}" for name in cell.features},
    ).model_dump_json()


def _configs(name: str) -> list[Path]:
    """All configs that a grid may depend on: of the other grids, those that its file may name."""
    grids = {grid: config_file("grid", grid) for grid in config_names("grid")}
    needed, new = set(), {name}
    while new:
        needed |= new
        texts = [grids[grid].read_text(errors="replace") for grid in new]
        new = {grid for grid in grids if any(grid in text for text in texts)} - needed
    files = {file for folder in config_folders() for file in folder.rglob("*.yaml")}
    return sorted(files - {file for grid, file in grids.items() if grid not in needed})


def _digest(configs: Iterable[Path]) -> str:
    """Return a digest of the configs' names and contents, of the code and of Python's version."""
    digest = hashlib.sha256(_code_digest().encode())
    for file in configs:
        digest.update(str(file).encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()


@cache
def _code_digest() -> str:
    digest = hashlib.sha256(sys.version.encode())
    for file in sorted(Path(__file__).parents[1].rglob("*.py")):
        digest.update(file.read_bytes() + b"\0")
    return digest.hexdigest()
