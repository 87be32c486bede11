"""Certificates: everything that a grid's tables are computed from, and its verification.

A certificate is a folder with the files of a project under their usual paths, the resolved grid,
and the SHA-256 of each file; or a zip of it. To verify it is to compute its results and tables
again, with the code that evaluates and tabulates, and to compare them.
"""

import csv
import math
import os
import shutil
import zipfile
from collections import Counter
from collections.abc import Iterator
from contextlib import chdir
from itertools import chain, zip_longest
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from psld.config.settings import write_record
from psld.grid import paths
from psld.grid.cache import grid_as_json, grid_from_json
from psld.grid.entries import read_table
from psld.grid.figures import plots
from psld.grid.records import Grid
from psld.metrics.evaluation import recompute
from psld.metrics.reference_folder import FEATURES
from psld.metrics.results import CellResults
from psld.report.formats import as_csv
from psld.sampling.records import ShardRecord
from psld.utils.errors import PSLDError, UserError, reraise_fault
from psld.utils.files import atomic_path, read_json, sha256_of_file, write_json, write_text

GRID = "grid.json"
"""The file of the resolved grid."""

INDEX = "certificate.json"
"""The file with the SHA-256 of every other one."""

TOLERANCE = 1e-6
"""The largest relative difference of a recomputed number: other machines round differently."""


def certify(grid: Grid, path: Path) -> int:
    """Write the certificate of a grid's evaluated cells, and return the number of these cells.

    The working directory is the project. Raises UserError if files are missing or do not belong
    together, or if there are no results with the grid's settings.
    """
    cells, loaded = 0, {}
    files = [f"{paths.figure(grid.name, plot)}.png" for plot in plots(grid)]
    for cell in filter(lambda cell: Path(cell.result).exists(), grid.measured_cells):
        stated = CellResults.read(cell.result)
        if stated.records == [measurement.digest(cell.digest) for measurement in cell.measurements]:
            # Name files that are damaged, and wait for those that other machines have just written.
            recompute(cell.evaluate_job.settings, stated, loaded, measure=False)
            for record in filter(os.path.exists, cell.records):
                ShardRecord.read(record)
            guide = [cell.guide.manifest] if cell.guide else []
            files += [cell.result, paths.kept(cell.result), cell.model.manifest, *guide]
            files += [*cell.references, *cell.records]
            cells += 1
    files += [f"{folder}/{FEATURES}" for folder, has_features in loaded if has_features]
    if grid.measured_cells and not cells:
        raise UserError(f"results/cells/{grid.name}: no results; run snakemake {grid.name} first")
    with TemporaryDirectory(prefix="psld-") as temporary, atomic_path(path) as partial:
        folder = Path(temporary) / "files"
        for name in filter(os.path.exists, dict.fromkeys(files)):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(name, folder / name)
        write_text(folder / GRID, grid_as_json(grid))
        for name, table in grid.file.tables.items():
            text = as_csv(grid, table, read_table(grid, name, folder))
            write_text(folder / f"{paths.table(grid.name, name)}.csv", text)
        with chdir(folder):  # Check the copies: files may have been replaced meanwhile.
            wrong = _verify(Path(temporary) / "results", measure=False).wrong
        if wrong:
            raise UserError(f"{wrong[0]}; sample and evaluate the cell again")
        pack(folder, partial)
    return cells


def pack(folder: Path, path: Path) -> None:
    """Write the index of a folder's files into it, and all as a zip: equal ones for equal files."""
    names = sorted(files_in(folder))
    write_json(folder / INDEX, {name: sha256_of_file(folder / name) for name in names})
    with zipfile.ZipFile(path, "w") as archive:
        for name in [INDEX, *names]:
            archive.writestr(zipfile.ZipInfo(name), (folder / name).read_bytes())


class Verified(NamedTuple):
    """The outcome of a verification."""

    grid: Grid
    results: Path
    """The root of the computed results."""
    wrong: list[str]
    """Everything that does not hold, each with the name of its file."""
    tables: dict[str, Counter[str]]
    """The number of entries of each table: hold, wrong, not recomputed, not run."""


def verify(path: Path, folder: Path) -> Verified:
    """Verify a certificate, a zip or a folder. Raises UserError if it is damaged or malformed.

    `folder` is an empty one for the files of the zip and the computed results.
    """
    try:
        if path.is_file():
            zipfile.ZipFile(path).extractall(folder / "files")  # leaves out each `..` of a name
        with chdir(path if path.is_dir() else folder / "files"):
            check_files()
            return _verify(folder / "results")
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file: {error.filename}") from None
    except PSLDError as error:  # also of NaN among features
        raise UserError(f"{path}: {error}") from None
    except Exception as error:  # Computing with what is damaged can raise nearly any.
        reraise_fault(error)
        raise UserError(f"{path}: damaged, or not a certificate ({error!r})") from None


def _verify(root: Path, measure: bool = True) -> Verified:
    """Verify the files in the working directory, and write their computed results below `root`."""
    grid = grid_from_json(Path(GRID).read_text())
    wrong, tables, loaded, taken = [], {}, {}, set()
    files = files_in(Path())
    for cell in grid.measured_cells:
        if cell.result in files:  # so it is no path that leads out of the folder
            stated = CellResults.read(cell.result)
            computed, others = recompute(cell.evaluate_job.settings, stated, loaded, measure)
            taken |= others
            write_record(root / cell.result, computed)
            pair = (each.model_dump(mode="json")["results"] for each in (computed, stated))
            wrong += (f"{cell.result}: {each}" for each in differences(*pair))
    for name, table in grid.file.tables.items():
        path, rows = f"{paths.table(grid.name, name)}.csv", read_table(grid, name, root)
        texts = as_csv(grid, table, rows), Path(path).read_text()
        pairs = zip_longest(*(csv.DictReader(text.splitlines()) for text in texts))
        tables[name] = Counter()
        for entry, pair in zip(chain.from_iterable(rows), pairs, strict=True):
            label = f"{' '.join(entry.row.label)}, {entry.column}"
            found = [f"{path}: {label}: {each}" for each in differences(*pair)]
            wrong += found
            is_taken = any(result.record in taken for result in entry.results)
            outcome = "not recomputed" if is_taken and entry.show != "nfe" else "hold"
            outcome = "not run" if entry.value is None else outcome
            if not entry.row.literature:
                tables[name]["wrong" if found else outcome] += 1
    return Verified(grid, root, wrong, tables)


def check_files() -> None:
    """Raise UserError if a file in the working directory is not as the index has it."""
    index, names = read_json(INDEX, dict[str, str]), files_in(Path())
    for name in sorted({*index, *names} - {INDEX}):
        if name not in index or name not in names:
            raise UserError(f"{name}: {'added' if name in names else 'missing'}")
        if sha256_of_file(name) != index[name]:
            raise UserError(f"{name}: changed: its SHA-256 is not that in {INDEX}")


def files_in(folder: Path) -> set[str]:
    """Return the names of all files below a folder."""
    return {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}


def differences(computed: Any, stated: Any, key: str = "") -> Iterator[str]:
    """Yield where two contents differ by more than rounding: `KEY is X, recomputed Y`."""
    if isinstance(computed, list) and isinstance(stated, list) and len(computed) == len(stated):
        computed, stated = dict(enumerate(computed)), dict(enumerate(stated))
    if isinstance(computed, dict) and isinstance(stated, dict):
        for name in {**computed, **stated}:
            where = f"{key}.{name}".removeprefix(".")
            yield from differences(computed.get(name), stated.get(name), where)
    else:
        try:
            holds = math.isclose(float(computed), float(stated), rel_tol=TOLERANCE, abs_tol=1e-9)
        except (TypeError, ValueError):
            holds = computed == stated
        if not holds:
            right, wrong = (" ".join(str(value).split())[:60] for value in (computed, stated))
            yield f"{key} is {wrong}, recomputed {right}"
