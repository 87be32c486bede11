"""The contents of a certificate: the files that tables are computed from; no images, no weights."""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from safetensors import safe_open

from psld.config.settings import read_record, write_record
from psld.data.description import read_description
from psld.grid import paths
from psld.grid.entries import read_table
from psld.grid.figures import plots_of
from psld.grid.resolved import Grid
from psld.grid.results import (
    CellResult,
    CellResults,
    LikelihoodResult,
    Weights,
    read_likelihood,
    read_result,
)
from psld.metrics.classifier import read_extractor_manifest as read_extractor_manifest
from psld.metrics.reference_folder import read_reference_manifest
from psld.report.certificate import pack
from psld.report.formats import as_csv, markdown
from psld.report.table import text_of
from psld.sampling.records import ShardRecord, record_path
from psld.training.manifest import GuideManifest, ModelManifest, read_manifest
from psld.utils.errors import UserError
from psld.utils.files import read_json, retried_in_slurm, sha256_of_file, write_text
from psld.utils.tensors import load_tensors

GRID = "grid.json"
"""The entry with the resolved grid."""

MB = 1_000_000


def certify(grid: Grid, path: Path, max_mb: float | None) -> int:
    """Write the certificate of a grid's evaluated cells, and return the number of these cells.

    The working directory is the project. Raises UserError if files are missing or do not belong
    together, if there are no results yet, or if the certificate would be larger than `max_mb`.
    """
    results, likelihoods = evaluated(grid), measured_likelihoods(grid)
    if (grid.cells or grid.file.likelihood_models()) and not (results or likelihoods):
        raise UserError(
            f"{cells_folder(grid)}: no results of the grid {grid.name}; run its cells first "
            f"(psld plan grid_name={grid.name} list=cells lists them)"
        )
    with TemporaryDirectory(prefix="psld-") as folder:
        made = Path(folder)
        for cell, found in results.items():
            record = CellResults(results=tuple(found))
            write_record(made / paths.cell_result(grid.name, cell), record)
        for model, likelihood in likelihoods.items():
            write_record(made / paths.likelihood(grid.name, model), likelihood)
        write_text(made / GRID, grid.model_dump_json(indent=2))
        for name, text in texts_of_tables(grid, cells_folder(grid, made)).items():
            write_text(made / name, text)
        listed = dict(files_of(grid, results))
        names = [*listed, *files_of_likelihoods(grid, likelihoods)]
        files = {name: Path(name) for name in names}
        files |= {str(file.relative_to(made)): file for file in made.rglob("*") if file.is_file()}
        for name, file in files.items():
            if not file.is_file():
                raise UserError(f"{name}: no such file, and the certificate needs it")
        size = sum(file.stat().st_size for file in files.values()) / MB
        if max_mb is not None and size > max_mb:
            raise UserError(
                f"{path}: would have {size:.1f} MB; set max_mb={size * 1.01 + 1:.0f} to write it, "
                "or evaluate with keep=1, which keeps no features"
            )
        pack(grid.name, files, path, {name: digest for name, digest in listed.items() if digest})
    return len(results)


def cells_folder(grid: Grid, root: Path = Path()) -> Path:
    """The folder of a grid's results below `root`, as `read_table` takes it."""
    return (root / paths.cell_result(grid.name, "cell")).parent


def evaluated(grid: Grid) -> dict[str, list[CellResult]]:
    """Return the results of each cell that has all of them, of the grid's current settings."""
    found = {}
    for cell, evaluations in grid.evaluations_by_cell.items():
        results = [read_result(grid, cells_folder(grid), each) for each in evaluations]
        if None not in results:
            found[cell] = results
    return found


def measured_likelihoods(grid: Grid) -> dict[str, LikelihoodResult]:
    """Return the likelihoods that tables show and that have been measured, by model."""
    models = grid.file.likelihood_models()
    found = {model: read_likelihood(grid, cells_folder(grid), model) for model in models}
    return {model: result for model, result in found.items() if result}


def files_of_likelihoods(grid: Grid, results: dict[str, LikelihoodResult]) -> Iterator[str]:
    """Yield the paths of what likelihoods were computed from."""
    for model, result in results.items():
        yield f"{grid.model_folder(model)}/manifest.json"
        dataset = grid.models[model].dataset
        yield from (paths.dataset_digest(dataset), paths.dataset_record(dataset))
        folder = Path(paths.likelihood(grid.name, model)).with_suffix("")
        left = result.measured
        for shard in sorted(folder.glob("*.json")):
            if left > 0:
                yield str(shard)
                left -= len(read_json(shard)["bits"])


def texts_of_tables(grid: Grid, cells: Path) -> dict[str, str]:
    """Return the tables of a grid as CSV and Markdown, by their usual paths."""
    texts = {}
    for name, table in grid.file.tables.items():
        rows = read_table(grid, name, cells)
        texts[f"{paths.table(grid.name, name)}.csv"] = as_csv(grid, table, rows)
        texts[f"{paths.table(grid.name, name)}.md"] = markdown(text_of(table, rows))
    return texts


def files_of(grid: Grid, results: dict[str, list[CellResult]]) -> Iterator[tuple[str, str | None]]:
    """Yield the paths of the other files of a project that belong to a certificate of results.

    Each comes with the SHA-256 of the file if it was checked. Raises UserError if a file is
    damaged, or if a result was computed from other weights or features than those that are there.
    """
    for cell, found in results.items():
        model, sampler = cell.split("/")
        result = paths.cell_result(grid.name, cell)
        yield _checked(paths.kept(result), "evaluation", found[0].kept_sha256, "evaluate again")
        yield from ((record, None) for record in _records_of(grid, cell))
        yield _manifest(grid.model_folder(model), ModelManifest, found[0].model), None
        if guide := grid.samplers[sampler].guide:
            folder = paths.guide_folder(grid.name, guide)
            yield _manifest(folder, GuideManifest, found[0].guide), None
        dataset = grid.models[model].dataset
        digest, description = paths.dataset_digest(dataset), paths.dataset_record(dataset)
        _check_description(digest, description)
        yield from ((digest, None), (description, None))
        kept = _kept_sources(paths.kept(result))
        for name, each in {one.metric["features"]: one for one in found}.items():
            if each.metric["extractor"]["kind"] == "classifier":
                extractor = paths.extractor_folder(dataset, name)
                read_extractor_manifest(extractor)
                yield f"{extractor}/manifest.json", None
            reference = paths.reference_folder(dataset, name)
            read_reference_manifest(reference)
            yield f"{reference}/manifest.json", None
            if name in kept:
                path = f"{reference}/features.safetensors"
                yield _checked(path, "features", each.reference_sha256, "evaluate again")
    for name in plots_of(grid):
        if Path(plot := f"{paths.figure(grid.name, name)}.png").exists():
            yield plot, None


@retried_in_slurm
def _check_description(digest: str, record: str) -> None:
    """Raise UserError if the files that describe a dataset do not belong together."""
    recorded = read_description(Path(record)).digest
    if not Path(digest).is_file():
        raise UserError(f"{digest}: no such file; prepare the dataset again")
    if Path(digest).read_text() != f"{recorded}\n":
        raise UserError(f"{digest}: not the digest in {record}; prepare the dataset again")


def _manifest(folder: str, kind: type[ModelManifest | GuideManifest], used: Weights) -> str:
    """Return the path of a manifest. Raises UserError if it is of other weights than were used."""
    path = f"{folder}/manifest.json"
    if read_manifest(folder, kind).weights_sha256 != used.weights_sha256:
        raise UserError(f"{path}: of other weights than the results; sample and evaluate again")
    return path


def _records_of(grid: Grid, cell: str) -> Iterator[str]:
    """Yield the records of a cell's shards, with the digests of its images, that are there."""
    folder = paths.shards_folder(grid.name, *cell.split("/"))
    for shards in grid.ranges_of(cell):
        if (path := record_path(folder, *shards)).exists():
            read_record(ShardRecord, path, f"{path}: not the record of shards; sample again")
            yield str(path)


def _kept_sources(path: str) -> set[str]:
    """Return the `metric.features` whose features are in a file of kept features."""
    with safe_open(path, framework="np") as file:
        return {key.partition("/")[0] for key in file.keys() if "/" in key}  # noqa: SIM118


@retried_in_slurm
def _checked(path: str, kind: str, sha256: str, remedy: str) -> tuple[str, str]:
    """Return the path and the SHA-256 of a file with the digest that a result states."""
    whole = sha256_of_file(path) if Path(path).is_file() else ""
    load_tensors(path, kind, remedy, sha256)
    return path, whole
