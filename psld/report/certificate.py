"""Write and verify certificates, which hold everything that a grid's tables are computed from.

A certificate is a folder, or a zip of the folder. It holds files of a project under their usual
paths, the resolved grid, and the SHA-256 of each file. `verify` recomputes the results and tables
with the code of `psld evaluate` and `psld tabulate`, and compares them with the stored files.
"""

import csv
import math
import os
import shutil
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import chdir
from dataclasses import replace
from itertools import chain, zip_longest
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, cast

from torch import Tensor

from psld.config.locations import config_file, config_names
from psld.config.settings import write_record
from psld.data.preparation import check_prepared
from psld.evaluation.evaluation import GatheredFeatures, load_kept, recompute
from psld.evaluation.folders import FEATURES, ReferenceManifest, load_reference
from psld.evaluation.results import NUMBER_KINDS, CellResults
from psld.grid.cache import grid_as_json, grid_from_json, load_grid
from psld.grid.cells import Cell, Grid
from psld.grid.entries import Entry
from psld.grid.records import TrainedRecord
from psld.grid.rows import as_csv, decisive_content, read_table
from psld.metrics.features import Reference
from psld.sampling.settings import ShardRecord
from psld.utils.errors import PSLDError, UserError, reraise_fault
from psld.utils.files import atomic_path, read_json, sha256_of_file, write_json, write_text

GRID = "grid.json"
INDEX = "certificate.json"
"""The file with the SHA-256 of every other file."""

LARGEST = 2 << 30
"""The largest size, in bytes, to which a compressed zip may unpack. The zips of `certify` are not
compressed and may be larger."""

ROUNDING = 1e-6
"""The largest accepted relative difference between a stated number and the recomputed number.
Machines round differently."""

FEATURE_ROUNDING = 1e-4
"""The largest accepted `relative_distance` between two references (docs/notes/intervals.md)."""

UNKNOWN = "not recomputed"
"""The basis of a number (how the number was verified) if its features are not in the
certificate."""

MOMENTS = "recomputed from mean and covariance, interval stated"
"""The basis of a Fréchet distance without features. Its interval cannot be recomputed. Ranks,
differences and extrapolations to n → ∞ need the interval, so they are not recomputed either."""

LoadedReference = tuple[Reference, ReferenceManifest]


def certify(grid: Grid, path: Path) -> int:
    """Write the certificate of a grid's evaluated cells, and return the number of these cells.

    Raises UserError if files are missing or inconsistent, if a dataset was prepared with other
    settings, or if there are no results.
    """
    cells, loaded, files = 0, {}, []
    for cell in filter(lambda cell: Path(cell.result).exists(), grid.measured_cells):
        stated = CellResults.read(cell.result)
        asked = [cell.record_of(measurement) for measurement in cell.measurements]
        if [result.record for result in stated.results] == asked:
            dataset = cell.model.dataset
            check_prepared(f"{grid.name}/{dataset}", grid.datasets[dataset].settings)
            # Report damaged files here, and wait for files that other machines have just written.
            _recompute(cell, stated, loaded, measure=False)
            for record in filter(os.path.exists, cell.records):
                ShardRecord.read(record)
            files += _files_of(cell)
            cells += 1
    files += [f"{folder}/{FEATURES}" for folder in loaded]
    if grid.measured_cells and not cells:
        raise UserError(f"results/cells/{grid.name}: no results; run snakemake {grid.name} first")
    with TemporaryDirectory(prefix="psld-") as temporary, atomic_path(path) as partial:
        folder = Path(temporary) / "files"
        for name in filter(os.path.exists, dict.fromkeys(files)):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(name, folder / name)
        write_text(folder / GRID, grid_as_json(grid))
        for name, table in grid.file.tables.items():
            text = as_csv(table, read_table(grid, name, folder))
            write_text(folder / f"{grid.table(name)}.csv", text)
        with chdir(folder):  # Check the copies: files may have been replaced meanwhile.
            wrong = _verify(Path(temporary) / "results", [], measure=False).wrong
        if wrong:
            raise UserError(f"{wrong[0]}; sample and evaluate the cell again")
        names = sorted(files_in(folder))
        write_json(folder / INDEX, {name: sha256_of_file(folder / name) for name in names})
        with zipfile.ZipFile(partial, "w") as archive:  # equal files give identical zips
            for name in [INDEX, *names]:
                archive.writestr(zipfile.ZipInfo(name), (folder / name).read_bytes())
    return cells


def _files_of(cell: Cell) -> list[str]:
    """Return the files of a cell in a certificate, without the features of its references."""
    manifests = [network.manifest for network in cell.networks]
    return [cell.result, cell.kept, *manifests, *cell.references, *cell.records]


class Verification(NamedTuple):
    grid: Grid
    """The grid whose values and bands are printed: the reader's grid, or, if the reader has no such
    grid, the certificate's grid."""
    results: Path
    wrong: list[str]
    """One line for each difference. Each line begins with the name of a file."""
    tables: dict[str, Counter[str]]
    """For each table, the number of entries with each basis, such as `UNKNOWN`."""
    notes: list[str]
    """Lines that state what was compared and what was not."""
    missing: list[str]
    """Lines that count the numbers and intervals that could not be recomputed."""


def verify(
    path: Path, folder: Path, grid_name: str | None = None, reference: Path | None = None
) -> Verification:
    """Verify a certificate, a zip or a folder. Raises UserError if it is damaged or malformed.

    Args:
        folder: an empty folder for the unpacked files and the recomputed results.
        grid_name: the name of the reader's grid. None means the name of the certificate's grid, if
            the reader has a grid of this name.
        reference: a folder that contains the reader's references, also in subfolders.
    """
    files = sorted(reference.rglob(FEATURES)) if reference else []
    if reference and not files:
        raise UserError(f"reference={reference}: no {FEATURES} there or below; run psld reference")
    references = [load_reference(file.parent) for file in files]
    try:
        if not path.is_dir():
            _unpack(path, folder / "files")
        with chdir(path if path.is_dir() else folder / "files"):
            for name, sha256 in _index(Path(), files_in(Path())).items():
                if sha256_of_file(name) != sha256:
                    raise UserError(f"{name}: changed: its SHA-256 is not that in {INDEX}")
            verified = _verify(folder / "results", references)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file: {error.filename}") from None
    except PSLDError as error:  # NaN among the features also raises a PSLDError.
        raise UserError(f"{path}: {error}") from None
    except Exception as error:  # Damaged files can make a computation raise nearly any error.
        if isinstance(error, OSError):  # The error of a full disk names no file.
            error.filename = error.filename or str(folder)
        reraise_fault(error, path)
        raise UserError(f"{path}: damaged, or not a certificate ({error!r})") from None
    name, what = verified.grid.name, f"{GRID}: the paper's values, texts, bands and settings"
    if not grid_name and name not in config_names("grid"):
        verified.notes.append(f"{what}: not compared with yours, there is no grid {name} here")
        return verified
    grid = load_grid(grid_name or name)
    pair = decisive_content(grid), decisive_content(verified.grid)
    found = [f"{GRID}: {each}" for each in differences(*pair, word="in your grid")]
    verified.wrong.extend(found)
    file = config_file("grid", grid.name)
    verified.notes.append(f"{what}: {len(found)} differences from yours, {file}")
    return verified._replace(grid=replace(grid, name=name))  # The paths of results contain `name`.


class _CellVerification(NamedTuple):
    """The verification of one cell. The features are not stored here, because they may be large."""

    cell: Cell
    wrong: list[str]
    """Lines for results that differ, and for labels that are not the sampler's classes."""
    bases: dict[str, str]
    """`MOMENTS` or `UNKNOWN` for each result without features, keyed by `CellResult.record`."""
    starts: set[str | None]
    """The SHA-256 of each initial distribution that the results state; None for the prior."""
    rows: dict[str, list[int]]
    """The `rows_of` of the samples, keyed by a text that names the cell and the extractor."""


def _verify(root: Path, references: list[LoadedReference], measure: bool = True) -> Verification:
    """Verify the files in the working directory, and write the recomputed results below `root`."""
    grid, loaded, tables = grid_from_json(Path(GRID).read_text("utf-8")), {}, {}
    files = _check_names(grid)
    # A path that leads out of the folder is not in `files`, so no such result is read.
    evaluated = [cell for cell in grid.measured_cells if cell.result in files]
    cells = [_verify_cell(cell, root, loaded, measure) for cell in evaluated]
    starts = _starts(cells)
    bases = {record: basis for each in cells for record, basis in each.bases.items()}
    wrong = [text for each in cells for text in each.wrong]
    wrong += _verify_manifests(cells)
    wrong += _verify_starts(starts)
    for name in grid.file.tables:
        tables[name], found = _verify_table(grid, name, root, bases)
        wrong += found
    notes = [f"{file}: SHA-256 {max(map(str, found))}" for file, found in starts.items() if file]
    for folder, stated in loaded.items():
        found = list(_verify_reference(stated, references))
        wrong += (f"{folder}: {each}" for each in found)
        unlike = "not compared with yours; reference=FOLDER compares it"
        outcome = f"{len(found)} differences from yours" if references else unlike
        notes.append(f"{folder}: {outcome}")
    notes += (f"equal features: {each}" for each in equal_features(_all_rows(loaded, cells)))
    return Verification(grid, root, wrong, tables, notes, list(_missing(tables)))


def _check_names(grid: Grid) -> set[str]:
    """Return the names of all files. Raises UserError for a file that the grid does not name."""
    files, named = files_in(Path()), {GRID, INDEX}
    named |= {f"{grid.table(name)}.csv" for name in grid.file.tables}
    for cell in grid.measured_cells:
        named |= {*_files_of(cell), *(str(Path(m).with_name(FEATURES)) for m in cell.references)}
    if foreign := files - named:
        raise UserError(f"{min(foreign)}: no file of grid {grid.name}")
    return files


def _verify_cell(
    cell: Cell, root: Path, loaded: dict[str, LoadedReference], measure: bool
) -> _CellVerification:
    """Recompute the results of a cell, write them below `root`, and compare them."""
    stated = CellResults.read(cell.result)
    gathered, computed = _recompute(cell, stated, loaded, measure)
    write_record(root / cell.result, computed)
    pair = (each.model_dump(mode="json")["results"] for each in (computed, stated))
    wrong = [f"{cell.result}: {each}" for each in differences(*pair)]
    if not _fits_classes(cell, gathered.labels):
        wrong.append(f"{cell.kept}: labels: not the sampler's classes")
    bases = {
        result.record: MOMENTS if gathered.recomputes(each) else UNKNOWN
        for each, result in zip(cell.measurements, stated.results, strict=True)
        if not gathered.has(each)
    }
    # For each extractor, the largest set of samples comes last, so `rows` keeps this set.
    samples = sorted(gathered.samples.items())
    rows = {f"{cell.name} ({name})": rows_of(cast(Any, each).values) for (name, _), each in samples}
    return _CellVerification(
        cell, wrong, bases, {each.start_sha256 for each in stated.results}, rows
    )


def _verify_manifests(cells: list[_CellVerification]) -> Iterator[str]:
    """Yield a line for each difference between a network's manifest and the grid."""
    networks = {network.manifest: network for each in cells for network in each.cell.networks}
    for path, network in networks.items():
        yield from (f"{path}: {each}" for each in manifest_differences(network))


def _starts(cells: list[_CellVerification]) -> dict[str | None, set[str | None]]:
    """Return the stated SHA-256 values of each initial distribution.

    The keys are the files of the initial distributions; None is the prior.
    """
    starts: dict[str | None, set[str | None]] = {}
    for each in cells:
        file = each.cell.start.file if each.cell.start else None
        starts.setdefault(file, set()).update(each.starts)
    return starts


def _verify_starts(starts: dict[str | None, set[str | None]]) -> Iterator[str]:
    """Yield a line for each initial distribution whose cells do not all state the same SHA-256.

    Cells that start from the prior must state no SHA-256.
    """
    for file, found in starts.items():
        if len(found) > 1 or (file is None) != (None in found):
            yield f"{file or 'the prior'}: some cells that start there state another start"


def _verify_table(
    grid: Grid, name: str, root: Path, bases: dict[str, str]
) -> tuple[Counter[str], list[str]]:
    """Return the number of entries with each basis, and a line for each difference of an entry."""
    table, path = grid.file.tables[name], f"{grid.table(name)}.csv"
    counts, wrong = Counter(), []
    entries = read_table(grid, name, root)
    texts = as_csv(table, entries), Path(path).read_text("utf-8")
    pairs = zip_longest(*(csv.DictReader(text.splitlines()) for text in texts))
    for entry, pair in zip(chain.from_iterable(entries), pairs, strict=True):
        fixed = entry.cell.sampler.settings.evaluations if entry.cells else None
        found = list(differences(pair[0], pair[1]))
        if fixed is not None and any(result.nfe != fixed for result in entry.results):
            found.append(f"nfe is {entry.nfe:g}, by the sampler's settings {fixed}")
        wrong += (f"{path}: {entry.label}: {each}" for each in found)
        if not entry.row.literature:
            counts["different" if found else _basis(entry, fixed, bases)] += 1
    return counts, wrong


def _verify_reference(stated: LoadedReference, references: list[LoadedReference]) -> Iterator[str]:
    """Yield a line for each difference between a reference in the certificate and the references of
    the same kind on this machine."""
    manifest = stated[1]
    alike = [each for each in references if each[1].kind == manifest.kind]
    for yours in alike:
        yield from reference_differences(yours, stated)
    if references and not alike:
        yield f"you have no reference of {manifest.dataset} with this extractor"


def _all_rows(
    loaded: dict[str, LoadedReference], cells: list[_CellVerification]
) -> dict[str, list[int]]:
    """Return the `rows_of` of the real images and then of the samples, keyed by name."""
    rows = {}
    for folder, (features, _) in loaded.items():
        for name in ("train", "test"):
            if images := getattr(features, name):
                rows[f"{name} images ({folder})"] = rows_of(images.values)
    for each in cells:
        rows |= each.rows
    return rows


def _missing(tables: dict[str, Counter[str]]) -> Iterator[str]:
    """Yield lines that count the numbers and intervals that could not be recomputed."""
    counts = sum(tables.values(), start=Counter())
    for basis, what in ((UNKNOWN, "numbers"), (MOMENTS, "intervals")):
        if count := sum(n for each, n in counts.items() if each.startswith(basis)):
            custom = "; numbers of custom measures cannot be recomputed"
            yield f"{count} {what} cannot be recomputed: evaluate with keep=2048{custom}"


def _recompute(
    cell: Cell, stated: CellResults, loaded: dict[str, LoadedReference], measure: bool
) -> tuple[GatheredFeatures, CellResults]:
    gathered = load_kept(cell.kept, cast(str, stated.results[0].kept_sha256))
    settings = cell.evaluate_job.settings
    return gathered, recompute(settings, stated, gathered, loaded, measure)


def _fits_classes(cell: Cell, labels: Tensor | None) -> bool:
    """Return whether the labels are the classes that the sampler names.

    If the sampler names no classes, there must be no labels. Return True for a custom guidance,
    because only its code determines the classes.
    """
    stated, guidance = [] if labels is None else labels.tolist(), cell.sampler.settings.guidance
    if guidance.is_data:
        return True
    classes = guidance.classes(cell.model.settings.dataset, ())
    if not classes:
        return not stated
    return stated == [classes[i % len(classes)] for i in range(len(stated))]


def _basis(entry: Entry, fixed: int | None, bases: dict[str, str]) -> str:
    """Return the basis of an entry's number. `_CellVerification` describes `bases`."""
    if entry.value is None:
        return "not run"
    basis = "recomputed from features"
    if not NUMBER_KINDS[entry.show].from_features:
        given = fixed is not None and entry.show == "nfe"
        basis = "given by the sampler's settings" if given else "counted by the certificate's maker"
    elif found := {bases[result.record] for result in entry.results if result.record in bases}:
        basis = MOMENTS if found == {MOMENTS} and entry.show == "value" else UNKNOWN
    return f"{basis}, seeds missing" if entry.missing_seeds else basis


def _index(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Read the index in a folder. Raises UserError if the index does not list exactly these
    names."""
    index = read_json(folder / INDEX, dict[str, str])
    if different := sorted(({*names} ^ index.keys()) - {INDEX}):
        raise UserError(f"{different[0]}: {'missing' if different[0] in index else 'added'}")
    return index


def _unpack(path: Path, folder: Path) -> None:
    """Unpack a zip. Raises UserError if its index lists other files, or if it is a zip bomb."""
    with zipfile.ZipFile(path) as archive:
        entries = [entry for entry in archive.infolist() if not entry.is_dir()]
        size, names = sum(e.file_size for e in entries), Counter(e.filename for e in entries)
        if size > max(LARGEST, path.stat().st_size):
            raise UserError(f"has {size:,} bytes when unpacked; unpack it and verify the folder")
        if twice := [name for name in names if names[name] > 1]:
            raise UserError(f"{twice[0]}: {names[twice[0]]} entries of this name")
        archive.extract(INDEX, folder)
        _index(folder, names)
        # zipfile removes each `..` from a name, so no file is written outside `folder`.
        archive.extractall(folder)


def files_in(folder: Path) -> set[str]:
    return {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}


# -- comparisons -----------------------------------------------------------------------------------


def differences(right: Any, stated: Any, key: str = "", word: str = "recomputed") -> Iterator[str]:
    """Yield a line for each difference larger than rounding: `KEY is X, recomputed Y`."""
    if isinstance(right, list) and isinstance(stated, list) and len(right) == len(stated):
        right, stated = dict(enumerate(right)), dict(enumerate(stated))
    if isinstance(right, dict) and isinstance(stated, dict):
        for name in {**right, **stated}:
            where = f"{key}.{name}".removeprefix(".")
            yield from differences(right.get(name), stated.get(name), where, word)
        return
    try:
        x, y = cast(Any, (right, stated))
        holds = math.isclose(float(x), float(y), rel_tol=ROUNDING, abs_tol=1e-9)
    except (TypeError, ValueError):
        holds = right == stated
    if not holds:
        yield f"{key} is {_text(stated)}, {word} {_text(right)}"


def manifest_differences(network: TrainedRecord) -> Iterator[str]:
    """Yield a line for each difference between a manifest and the grid.

    The steps of an imported model are not compared, because they come from its checkpoint.
    """
    found, settings = network.read_manifest(), network.settings
    steps = found.step if found.imported else settings.training.steps
    right = {"settings": settings.model().identity(), "step": steps}
    stated = {"settings": found.settings.identity(), "step": found.step}
    yield from differences(right, stated, word="in the grid")


def _text(value: Any) -> str:
    whole = {type(None): "absent", dict: "present"}.get(type(value)) or str(value)
    return " ".join(whole.split())[:60]


def reference_differences(yours: LoadedReference, theirs: LoadedReference) -> Iterator[str]:
    """Yield a line for each difference between the references of the reader and the certificate.

    Rounding differences are ignored.
    """
    facts = {"dataset_digest", "images", "extractor_digest", "extractor_test_accuracy"}
    right, stated = (manifest.model_dump(include=facts) for _, manifest in (yours, theirs))
    found = list(differences(right, stated, word="in yours"))
    yield from found
    if found:  # Features of different extractors cannot be compared.
        return
    right, stated = (_arrays(reference) for reference, _ in (yours, theirs))
    for name in {**right, **stated}:
        distance = relative_distance(right.get(name), stated.get(name))
        if not distance <= FEATURE_ROUNDING:  # A distance of NaN is a difference, too.
            limit = f"{FEATURE_ROUNDING:.0e} is allowed"
            yield f"{name}: the distance from yours is {distance:.1e} of the spread, {limit}"


def _arrays(reference: Reference) -> dict[str, Tensor]:
    parts = {"train": reference.train, "test": reference.test, "noise": reference.noise}
    found = {part: features.tensors() for part, features in parts.items() if features}
    return {f"{part}.{name}": x for part, tensors in found.items() for name, x in tensors.items()}


def relative_distance(yours: Tensor | None, stated: Tensor | None) -> float:
    """Return ‖yours − stated‖ / ‖yours − mean‖ of features, n×d; infinity if the shapes differ."""
    if yours is None or stated is None or yours.shape != stated.shape:
        return math.inf
    yours, stated = yours.double(), stated.double()
    spread = (yours - yours.mean(dim=0)).norm().clamp(min=1e-30)
    return ((yours - stated).norm() / spread).item()


def rows_of(features: Tensor) -> list[int]:
    """Return a hash of each image's features; `features` is n×d."""
    return [hash(row.tobytes()) for row in features.contiguous().numpy()]


def equal_features(rows: Mapping[str, list[int]]) -> Iterator[str]:
    """Yield a line for each set with repeated features, and for each pair with common features.

    `rows`: the `rows_of` of each set of images, keyed by name.
    """
    owners: dict[int, str] = {}
    for name, hashes in rows.items():
        different = set(hashes)
        if len(different) < len(hashes):
            yield f"{name}: {len(hashes) - len(different)} of {len(hashes)} repeat another image"
        shared = Counter(owners[row] for row in hashes if row in owners)
        for other, count in shared.items():
            yield f"{name}: {count} of {len(hashes)} are equal to {other}"
        owners |= dict.fromkeys(different - owners.keys(), name)
