"""Functions that write stand-ins for the models of a grid and the results of its cells."""

import json
from pathlib import Path
from typing import Any

from psld.config.settings import DIGEST, parse, write_record
from psld.evaluation.results import CellResult, CellResults
from psld.evaluation.settings import Measurement
from psld.grid.cells import Grid
from psld.metrics.estimate import Estimate
from psld.models.manifest import MANIFEST, Imported, ModelManifest
from psld.utils.files import digest_of
from psld.utils.tensors import load_tensors

SOFTWARE: dict[str, Any] = {"versions": {}, "precision": {}, "git_revision": None}

IMPORTED = Imported(file="official.ckpt", sha256="c" * 64, weights="ema")
"""The checkpoint of those models of a grid that are imported."""


def sealed(content: dict[str, Any]) -> str:
    """Return the text of a changed record with a correct digest."""
    content = {key: value for key, value in content.items() if key != DIGEST}
    return json.dumps({DIGEST: digest_of(content), **content})


def made_with(grid: Grid, name: str) -> dict[str, Any]:
    """Return the fields of a result that contain its settings, taken from the grid."""
    cell = grid.cells[name]
    trained = {"model": cell.model, "guide": cell.guide}
    weights = {
        key: record
        and {
            "name": record.name,
            "settings": record.settings.model().identity(),
            "weights_sha256": digest_of(record.folder),
            "dataset_digest": None,
            "step": None,
            "imported": IMPORTED if record.checkpoint else None,
        }
        for key, record in trained.items()
    }
    return weights | {
        "sampler": cell.sampler.settings.model_dump(mode="json", exclude_none=True),
        "seed": cell.seed,
    }


def estimate_of(value: float, samples: int, error: float = 0.0) -> Estimate:
    """Return a Fréchet distance of at most twenty blocks with this standard error."""
    blocks = min(20, samples)
    per_block, rest = divmod(samples, blocks)
    shift = error / (blocks - 1) ** 0.5
    return Estimate(
        value=value,
        samples=samples,
        block_samples=tuple(per_block + (i < rest) for i in range(blocks)),
        without_block=tuple(value + (-1) ** i * shift for i in range(blocks)),
        features=samples // 4,
    )


def cell_result(
    grid: Grid,
    name: str,
    value: float,
    samples: int | None = None,
    error: float = 0.0,
    **fields: Any,
) -> CellResult:
    """Return a result of a cell in the main metric of the grid; `fields` replaces other fields."""
    cell, metric = grid.cells[name], grid.metrics[grid.file.metric]
    measurement = Measurement(metric=metric, samples=samples or grid.file.samples)
    content = {
        "record": measurement.digest(cell.digest),
        "metric": metric.identity(),
        "estimate": estimate_of(value, measurement.samples, error),
        "class_accuracy": None,
        "nfe": getattr(cell.sampler.settings, "steps", 81),
        "sampling_seconds": 1.5,
        "sampling_device": "CPU",
        "floor": 0.321,
        "noise": 98.76,
        "nearest": None,
        "extractor_test_accuracy": 0.987,
        "reference_samples": 1000,
        "reference_sha256": "0" * 64,
        "kept_sha256": "0" * 64,
        **SOFTWARE,
        **made_with(grid, name),
    }
    return parse(CellResult, content | fields, where=name)


def write_result(folder: Path, grid: Grid, name: str, **fields: Any) -> Path:
    """Write `cell_result` to its place in `folder`, and return its path."""
    path = folder / grid.cells[name].result
    write_record(path, CellResults(results=(cell_result(grid, name, **fields),)))
    return path


def write_model_manifest(folder: Path, grid: Grid, name: str, **fields: Any) -> Path:
    """Write the manifest of a model of the grid to its place in `folder`."""
    model = grid.models[name]
    content = {
        "name": name,
        "grid": grid.name,
        "settings": model.settings.model(),
        "dataset_digest": None,
        "step": 100,
        "images_seen": 1600,
        "parameters": 1000,
        "seconds": 10.0,
        "device": "CPU",
        "ranks": 1,
        "run": None,
        "weights_sha256": "0" * 64,
        **SOFTWARE,
    }
    path = folder / model.folder
    write_record(path / MANIFEST, parse(ModelManifest, content | fields, where=name))
    return path


def weights_digest(folder: Path) -> str:
    """Return the digest of the weights in a folder."""
    return load_tensors(folder / "weights.safetensors", "weights", "").sha256
