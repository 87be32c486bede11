"""The resolved grids on disk, .cache/grids/NAME.db: a job reads its own record there.

Resolving a grid takes seconds to minutes. The file of a grid is a SQLite database: the digest of
all configs and of the code, the records by kind and name, and the contents that Hydra composed. If
nothing has changed, only the records are read. If a grid's file has changed, only new parts are
composed. A file that is missing or damaged is made again.
"""

import hashlib
import json
import sqlite3
import sys
from collections.abc import Iterable, Iterator
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import TypeAdapter, ValidationError

from psld.config.locations import config_folders
from psld.config.settings import Settings
from psld.grid.reading import grid_path, read_grid_file
from psld.grid.records import Cell, Dataset, Features, Grid, Guide, Model, Sampler
from psld.grid.schema import CellOptions, GridFile
from psld.metrics.settings import Measurement, MetricSettings
from psld.utils.errors import UserError
from psld.utils.files import atomic_path

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


class Row(NamedTuple):
    """A row of the table, without the SHA-256 that seals it."""

    place: int
    kind: str
    name: str
    content: str


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
    digest = _digest(_configs())
    grid = _read(name, file, digest)
    if grid is not None:
        return grid
    from psld.grid.resolution import Compositions, resolve

    # Models, samplers and metrics do not depend on the files of grids.
    others = (config for config in _configs() if config.parent.name != "grid")
    compose = Compositions(_digest(others), _contents(file))
    grid = resolve(name, read_grid_file(path), path, compose)
    _write(file, digest, grid, compose.contents)
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


def _rows(database: sqlite3.Connection, where: str = "1", *values: str) -> Iterator[Row]:
    """Yield the rows that fulfill a condition, by their places.

    Raises ValueError for a damaged one: SQLite has no checksums.
    """
    query = f"SELECT * FROM records WHERE {where} ORDER BY place"
    for *row, seal in database.execute(query, values):
        if seal != _seal(*row):
            raise ValueError("damaged")
        yield Row(*row)


def _content(database: sqlite3.Connection, kind: str, name: str = "") -> str:
    """Return the JSON of one row. Raises KeyError without it."""
    for row in _rows(database, "kind = ? AND name = ?", kind, name):
        return row.content
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


def _read(name: str, file: Path, digest: str) -> Grid | None:
    """Return the grid of a cache file with this digest, which is its last row."""
    try:
        with closing(_connect(file)) as database:
            rows = list(_rows(database))
        is_whole = [row.place for row in rows] == list(range(len(rows)))
        if not is_whole or rows[-1][1:] != ("digest", "", digest):
            return None
        records = {
            kind: {
                row.name: model.model_validate_json(row.content) for row in rows if row.kind == kind
            }
            for kind, model in KINDS.items()
        }
        return Grid(name, GridFile.model_validate_json(rows[0].content), **records)
    except UNREADABLE:
        return None


def _contents(file: Path) -> dict[str, dict[str, Any]]:
    """Return the composed contents of a cache file, up to date or not."""
    try:
        with closing(_connect(file)) as database:
            rows = _rows(database, "kind = 'contents'")
            return {row.name: json.loads(row.content) for row in rows}
    except UNREADABLE:
        return {}


def _write(file: Path, digest: str, grid: Grid, contents: dict[str, dict[str, Any]]) -> None:
    """Write the cache file of a grid atomically."""
    options = grid.file.model_dump_json(include=set(CellOptions.model_fields))
    rows = [("file", "", grid.file.model_dump_json()), ("options", "", options)]
    for kind in KINDS:
        records: dict[str, Settings] = getattr(grid, kind)
        rows += [(kind, name, record.model_dump_json()) for name, record in records.items()]
    rows += [("cells", name, _cell_row(cell)) for name, cell in grid.cells.items()]
    rows += [("contents", key, json.dumps(content)) for key, content in contents.items()]
    rows.append(("digest", "", digest))
    with closing(sqlite3.connect(":memory:")) as database:
        database.execute(
            "CREATE TABLE records (place INTEGER, kind TEXT, name TEXT, content TEXT, seal TEXT, "
            "PRIMARY KEY (kind, name)) WITHOUT ROWID"
        )
        sealed = ((place, *row, _seal(place, *row)) for place, row in enumerate(rows))
        database.executemany("INSERT INTO records VALUES (?, ?, ?, ?, ?)", sealed)
        database.commit()
        with atomic_path(file) as partial:
            partial.write_bytes(database.serialize())


def _seal(*row: str | int) -> str:
    return hashlib.sha256(repr(row).encode()).hexdigest()


def _cell_row(cell: Cell) -> str:
    dataset = cell.model.dataset
    return _CellRow(
        model=cell.model.name,
        sampler=f"{cell.sampler.family}-{cell.sampler.budget}",
        guide=cell.guide and cell.guide.name,
        seed=cell.seed,
        measurements=tuple((m.metric.name, m.samples) for m in cell.measurements),
        features={name: f"{dataset}/{name}" for name in cell.features},
    ).model_dump_json()


def _configs() -> list[Path]:
    """All config files."""
    return sorted(file for folder in config_folders() for file in folder.rglob("*.yaml"))


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
