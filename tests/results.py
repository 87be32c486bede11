"""Functions that write stand-ins for a grid, its models, and the results of its cells."""

import contextlib
import json
from pathlib import Path
from typing import Any

import yaml

from psld.config.settings import DIGEST, parse, write_record
from psld.grid import paths
from psld.grid.composing import compose_model
from psld.grid.loading import load_grid
from psld.grid.resolved import Grid
from psld.grid.results import CellResult, CellResults
from psld.metrics.estimate import Estimate
from psld.training.manifest import ModelManifest, write_manifest
from psld.utils.files import digest_of, write_text
from psld.utils.tensors import load_tensors

SOFTWARE: dict[str, Any] = {"versions": {}, "precision": {}, "git_revision": None}

WEIGHTS: dict[str, Any] = {"weights_sha256": "0" * 64, "dataset_digest": None, "step": None}


def sealed(content: dict[str, Any]) -> str:
    """The text of a record that says what it likes, with the right digest."""
    content = {key: value for key, value in content.items() if key != DIGEST}
    return json.dumps({DIGEST: digest_of(content), **content})


def write_grid(folder: Path, content: dict[str, Any]) -> Grid:
    """Make `mine` the grid of the folder's own configs, and load it."""
    write_text(folder / "configs/grid/mine.yaml", yaml.safe_dump(content, sort_keys=False))
    with contextlib.chdir(folder):
        return load_grid("mine")


def link_grid(project: Path, folder: Path) -> None:
    """Give `folder` the configs of `project`, and its cache: composing a grid takes seconds."""
    for name in ("configs", ".cache"):
        (folder / name).symlink_to(project / name)


def made_with(grid: Grid, cell: str) -> dict[str, Any]:
    """The part of a result that says what it was made with: here, with what the grid says."""
    model, name = cell.split("/")
    sampler = grid.samplers[name]
    guide = sampler.guide and grid.guides[sampler.guide].settings
    return {
        "model": {"name": model, "settings": grid.models[model].settings, **WEIGHTS},
        "guide": guide and {"name": sampler.guide, "settings": guide, **WEIGHTS},
        "sampler": sampler.settings,
        "metric": grid.metric(grid.file.metric).identity(),
        "seed": grid.file.seed_of(name),
    }


def estimate_of(value: float, samples: int, error: float = 0.0) -> Estimate:
    """An estimate of twenty blocks (of one sample each if there are fewer) with a given error."""
    blocks = min(20, samples)
    per_block, rest = divmod(samples, blocks)
    shift = error / (blocks - 1) ** 0.5
    return Estimate(
        value=value,
        samples=samples,
        block_samples=tuple(per_block + (i < rest) for i in range(blocks)),
        without_block=tuple(value + (-1) ** i * shift for i in range(blocks)),
    )


def cell_result(
    grid: Grid,
    cell: str,
    value: float,
    samples: int | None = None,
    error: float = 0.0,
    **given: Any,
) -> CellResult:
    """The grid's own metric of a cell; `given` prevails over the rest."""
    content = {
        "estimate": estimate_of(value, samples or grid.file.samples, error),
        "class_accuracy": None,
        "nfe": grid.samplers[cell.split("/")[1]].settings.get("steps", 81),
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
        **made_with(grid, cell),
    }
    return parse(CellResult, content | given, where=cell)


def write_result(folder: Path, grid: Grid, cell: str, **given: Any) -> Path:
    """Write `cell_result` where the commands look for it in `folder`, and return its path."""
    path = folder / paths.cell_result(grid.name, cell)
    write_record(path, CellResults(results=(cell_result(grid, cell, **given),)))
    return path


def write_model_manifest(folder: Path, grid: Grid, model: str, **given: Any) -> Path:
    """Write the manifest of a model of the grid where commands look for it in `folder`."""
    content = {
        "name": model,
        "grid": grid.name,
        "settings": compose_model(grid.models[model].overrides, model),
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
    path = folder / paths.model_folder(grid.name, model)
    write_manifest(path, parse(ModelManifest, content | given, where=model))
    return path


def weights_digest(folder: Path) -> str:
    """The digest in a folder's weights."""
    return load_tensors(folder / "weights.safetensors", "weights", "").sha256
