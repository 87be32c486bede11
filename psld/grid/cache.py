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
from collections.abc import Iterable
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Any

from psld.config.locations import config_folders
from psld.config.settings import Settings
from psld.data.settings import PrepareSettings
from psld.grid.reading import grid_path, read_grid_file
from psld.grid.records import Cell, Features, Grid, Guide, Model, Sampler
from psld.grid.schema import CellOptions, GridFile
from psld.metrics.settings import Measurement, MetricSettings
from psld.utils.files import atomic_path

CACHE = Path(".cache/grids")

KINDS: dict[str, type[Settings]] = {
    "models": Model,
    "guides": Guide,
    "samplers": Sampler,
    "metrics": MetricSettings,
    "datasets": PrepareSettings,
    "features": Features,
}
"""The records of a grid by the names of its attributes."""


class _CellRow(Settings):
    """A cell by the names of its records."""

    model: str
    sampler: str
    guide: str | None
    seed: int
    shards: int
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


def cached_record(grid: str, kind: str, name: str) -> Any:
    """Return a record of the cache, whether its grid is up to date or not; None without it."""
    try:
        with closing(_connect(CACHE / f"{grid}.db")) as database:
            return _record(database, kind, name)
    except (sqlite3.Error, OSError, ValueError, KeyError):
        return None


def cached_cell(grid: str, name: str) -> Cell | None:
    """Return a cell of the cache, like `cached_record`."""
    try:
        with closing(_connect(CACHE / f"{grid}.db")) as database:
            row = _CellRow.model_validate_json(_content(database, "cells", name))
            options = CellOptions.model_validate_json(_content(database, "options", ""))
            metrics = {
                metric: _record(database, "metrics", metric) for metric, _ in row.measurements
            }
            return Cell(
                grid=grid,
                model=_record(database, "models", row.model),
                sampler=_record(database, "samplers", row.sampler),
                guide=_record(database, "guides", row.guide) if row.guide else None,
                seed=row.seed,
                options=options,
                shards=row.shards,
                measurements=tuple(
                    Measurement(metric=metrics[metric], samples=samples)
                    for metric, samples in row.measurements
                ),
                features={
                    name: _record(database, "features", place)
                    for name, place in row.features.items()
                },
            )
    except (sqlite3.Error, OSError, ValueError, KeyError):
        return None


def _connect(file: Path) -> sqlite3.Connection:
    # A file never changes: it is replaced. So no locks are needed, which shared disks may lack.
    return sqlite3.connect(f"{file.absolute().as_uri()}?immutable=1", uri=True)


def _content(database: sqlite3.Connection, kind: str, name: str) -> str:
    """Return the JSON of a record. Raises KeyError without it."""
    query = "SELECT content FROM records WHERE kind = ? AND name = ?"
    row = database.execute(query, (kind, name)).fetchone()
    if row is None:
        raise KeyError(name)
    return row[0]


def _record(database: sqlite3.Connection, kind: str, name: str) -> Any:
    return KINDS[kind].model_validate_json(_content(database, kind, name))


def _read(name: str, file: Path, digest: str) -> Grid | None:
    """Return the grid of a cache file with this digest."""
    try:
        with closing(_connect(file)) as database:
            if _content(database, "digest", "") != digest:
                return None
            content = GridFile.model_validate_json(_content(database, "file", ""))
            query = "SELECT name, content FROM records WHERE kind = ? ORDER BY place"
            records = {
                kind: {
                    record: model.model_validate_json(text)
                    for record, text in database.execute(query, (kind,))
                }
                for kind, model in KINDS.items()
            }
            return Grid(name=name, file=content, **records)
    except (sqlite3.Error, OSError, ValueError, KeyError):
        return None


def _contents(file: Path) -> dict[str, dict[str, Any]]:
    """Return the composed contents of a cache file, up to date or not."""
    try:
        with closing(_connect(file)) as database:
            query = "SELECT name, content FROM records WHERE kind = 'contents'"
            return {name: json.loads(content) for name, content in database.execute(query)}
    except (sqlite3.Error, OSError, ValueError):
        return {}


def _write(file: Path, digest: str, grid: Grid, contents: dict[str, dict[str, Any]]) -> None:
    """Write the cache file of a grid atomically."""
    options = grid.file.model_dump_json(include=set(CellOptions.model_fields))
    rows = [("digest", "", digest), ("file", "", grid.file.model_dump_json())]
    rows.append(("options", "", options))
    for kind in KINDS:
        records: dict[str, Settings] = getattr(grid, kind)
        rows += [(kind, name, record.model_dump_json()) for name, record in records.items()]
    rows += [("cells", name, _cell_row(cell)) for name, cell in grid.cells.items()]
    rows += [("contents", key, json.dumps(content)) for key, content in contents.items()]
    with atomic_path(file) as partial, closing(sqlite3.connect(partial)) as database:
        database.execute("PRAGMA journal_mode = OFF")
        database.execute(
            "CREATE TABLE records (place INTEGER, kind TEXT, name TEXT, content TEXT, "
            "PRIMARY KEY (kind, name)) WITHOUT ROWID"
        )
        insert = "INSERT INTO records VALUES (?, ?, ?, ?)"
        database.executemany(insert, ((place, *row) for place, row in enumerate(rows)))
        database.commit()


def _cell_row(cell: Cell) -> str:
    dataset = cell.model.dataset
    return _CellRow(
        model=cell.model.name,
        sampler=f"{cell.sampler.family}-{cell.sampler.budget}",
        guide=cell.guide and cell.guide.name,
        seed=cell.seed,
        shards=cell.shards,
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
