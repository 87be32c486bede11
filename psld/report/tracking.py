"""What becomes of a grid's results in wandb: which runs there are, and what each of them holds."""

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from psld.grid.figures import plots_of, sheets_of, traced_models
from psld.report.images import full_row, tiled
from psld.utils.files import digest_of, sha256_of_file
from psld.grid.loading import Grid
from psld.grid.schema import Evaluation
from psld.grid.results import paper_values, read_result, read_table
from psld.sampling.shards import Shard, shard_path
from psld.report.formats import record_of
from psld.report.table import text_of

SIDE = 8
"""A sample grid has so many rows and columns, like those of trainings."""


@dataclass(frozen=True)
class TrackedTable:
    columns: list[str]
    rows: list[list[Any]]


@dataclass(frozen=True)
class TrackedRun:
    """One run: a stage of a cell, a table, or the grid's pictures."""

    id: str
    job_type: str
    """The stage, named like its command."""
    name: str
    config: dict[str, Any]
    tags: tuple[str, ...] = ()
    """Whose numbers can be compared: the dataset, and the metric where there is one."""
    values: dict[str, Any] = field(default_factory=dict)
    pictures: dict[str, np.ndarray | Path] = field(default_factory=dict)
    """H×W×3, or a PNG file."""
    tables: dict[str, TrackedTable] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """The name of everything in it."""
        tables = {name: [table.columns, table.rows] for name, table in self.tables.items()}
        pictures = {name: _digest_of_picture(picture) for name, picture in self.pictures.items()}
        return digest_of([self.name, self.config, self.tags, self.values, pictures, tables])


def run_id(grid: Grid, job_type: str, *identity: str | int) -> str:
    """The same for the same result, whatever its value: made anew, it replaces what was there."""
    return f"{job_type}-{digest_of([grid.name, *identity])[:12]}"


def evaluation_id(grid: Grid, evaluation: Evaluation) -> str:
    return run_id(grid, "evaluate", evaluation.cell, evaluation.metric, evaluation.samples)


def runs_of(grid: Grid, cells: Path, samples: Path, figures: Path) -> Iterator[TrackedRun]:
    """Every run that the grid's results are worth so far, in the order of its tables.

    Args:
        cells: folder of the grid's metrics files.
        samples: folder of its shards; a cell whose first shard is gone has no picture.
        figures: folder of its pictures.
    """
    papers = paper_values(grid)
    for cell in grid.cells:
        found = [(e, read_result(grid, cells, e)) for e in grid.evaluations_of(cell)]
        results = {evaluation: result for evaluation, result in found if result}
        if results:
            pictures = sample_grid(samples / cell)
            most = max(results, key=lambda evaluation: evaluation.samples)
            yield sampling(grid, most, results[most], pictures)
        for evaluation, result in results.items():
            paper = papers.get(evaluation, {}).get("value")
            yield evaluated(grid, evaluation, result, paper, pictures)
    for name in grid.file.tables:
        yield from tabulated(grid, name, cells)
    yield from drawn(grid, figures)


def sampling(
    grid: Grid, evaluation: Evaluation, result: dict[str, Any], pictures: dict[str, np.ndarray]
) -> TrackedRun:
    """What sampling a cell took, by the evaluation that reads most of it."""
    return TrackedRun(
        id=run_id(grid, "sample", evaluation.cell),
        job_type="sample",
        name=evaluation.cell,
        config=config_of_cell(evaluation, result),
        tags=(grid.models[evaluation.model].dataset,),
        values=_cost(result),
        pictures=pictures,
    )


def evaluated(
    grid: Grid,
    evaluation: Evaluation,
    result: dict[str, Any],
    paper: float | None,
    pictures: dict[str, np.ndarray],
) -> TrackedRun:
    """A metric of a cell under the metric's own name, so that runs can be sorted by it."""
    values = {
        evaluation.metric: result["value"],
        "paper": paper,
        "class_accuracy": result["class_accuracy"],
        "floor": result["floor"],
        "noise": result["noise"],
    }
    return TrackedRun(
        id=evaluation_id(grid, evaluation),
        job_type="evaluate",
        name=evaluation.cell,
        config=config_of_cell(evaluation, result) | {"metric": grid.metrics[evaluation.metric]},
        tags=(grid.models[evaluation.model].dataset, evaluation.metric),
        values={**_known(values), **_cost(result)},
        pictures=pictures,
    )


def config_of_cell(evaluation: Evaluation, result: dict[str, Any]) -> dict[str, Any]:
    """Model and sampler, resolved. A model's settings stand where its training has them too."""
    model = result["model"]
    return {
        **model["settings"],
        "model": evaluation.model,
        "sampler": {"name": evaluation.sampler, **result["sampler"]},
        "sampling_seed": result["seed"],
        "weights_sha256": model["weights_sha256"],
        "git_revision": result["git_revision"],
        "versions": result["versions"],
    }


def _cost(result: dict[str, Any]) -> dict[str, Any]:
    return {
        "images": result["samples"],
        "nfe": result["nfe"],
        "sampling_seconds": result["sampling_seconds"],
        "sampling_device": result["sampling_device"],
    }


def _known(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def sample_grid(folder: Path) -> dict[str, np.ndarray]:
    """A cell's first images, of its first shard, as one picture under the name of trainings'."""
    if not shard_path(folder, 0).exists():
        return {}
    images = Shard.load(shard_path(folder, 0)).images[: SIDE * SIDE]
    rows = [full_row(images[i : i + SIDE], SIDE) for i in range(0, len(images), SIDE)]
    return {"samples": tiled(rows)[0]}


def tabulated(grid: Grid, name: str, cells: Path) -> Iterator[TrackedRun]:
    """A table as people read it and, in `entries`, as programs do; none before anything ran."""
    table, rows = grid.file.tables[name], read_table(grid, name, cells)
    if all(entry.result is None for row in rows for entry in row):
        return
    text = text_of(table, rows)
    records = [record_of(grid, table, entry) for row in rows for entry in row]
    yield TrackedRun(
        id=run_id(grid, "tabulate", name),
        job_type="tabulate",
        name=name,
        config={"title": text.title, "caption": text.caption, "notes": text.notes},
        values=dict(Counter(entry.status for row in rows for entry in row)),
        tables={
            "table": TrackedTable(text.columns, text.lines),
            "entries": TrackedTable(list(records[0]), [list(r.values()) for r in records]),
        },
    )


def drawn(grid: Grid, figures: Path) -> Iterator[TrackedRun]:
    """All pictures of a grid in one run, each under its name."""
    named = {name: figures / f"{name}.png" for name in picture_names(grid)}
    pictures = {name: path for name, path in named.items() if path.exists()}
    if pictures:
        run = run_id(grid, "plot")
        yield TrackedRun(run, job_type="plot", name="pictures", config={}, pictures=pictures)


def picture_names(grid: Grid) -> list[str]:
    """The pictures of a grid by their paths without ending, as in results/figures/GRID."""
    galleries = [f"samples/{model}" for model in grid.models]
    traces = [f"phase-space/{model}" for model in traced_models(grid)]
    return [*plots_of(grid), *sheets_of(grid), *grid.file.pictures, *galleries, *traces]


def _digest_of_picture(picture: np.ndarray | Path) -> str:
    if isinstance(picture, Path):
        return sha256_of_file(picture)
    return hashlib.sha256(repr(picture.shape).encode() + picture.tobytes()).hexdigest()
