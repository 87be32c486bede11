"""The rehearsals of the paper's grids, run in the workflow: a model and a cell of each kind.

The kind of a model is dataset × process × network. The cells cover all combinations of integrator,
striding and guidance, all datasets, and all metrics. Images have the formats of the published
sources. Inception and DINOv2 (its small variant) have random weights.
"""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from psld.evaluation.results import CellResults
from psld.grid.cache import load_grid
from psld.grid.cells import Cell, Grid
from psld.grid.rows import entries_in
from psld.models.manifest import ModelManifest, read_manifest
from tests.data.formats import (
    afhq_files,
    celeba_files,
    encode,
    idx_files,
    random_images,
    write_files,
    write_zip,
)
from tests.metrics.random_networks import random_dinov2, write_random_inception
from tests.workflow.project import GRID, REPOSITORY, Project

REHEARSALS = {"paper": "rehearsal", "paper-denoiser": "denoiser-rehearsal"}
SMALLER = {
    "samples: 8": "samples: 4",
    "shard_size: 4": "shard_size: 2",
    "training.steps=4": "training.steps=2",
    "training.batch_size=8": "training.batch_size=2",
    "training.micro_batch=4": "training.micro_batch=1",
}
"""The sizes of the rehearsals, which need GPUs, and smaller sizes for a minute on one core."""


def write_sources(downloads: Path) -> None:
    """Write small archives in the published formats; CIFAR-10 is replaced by a folder of images.

    Fitting an initial distribution needs ten different images.
    """
    cifar = {f"class {i % 10}/{i}.png": encode(random_images(32, 32, 3, seed=i)) for i in range(14)}
    write_zip(downloads / "cifar10.zip", cifar)
    write_zip(downloads / "celeba" / "img_align_celeba.zip", celeba_files(5))
    names = afhq_files(train=4, test=2, size=1)
    animals = {name: encode(random_images(64, 64, 3, seed=i)) for i, name in enumerate(names)}
    write_files(downloads / "afhqv2", animals)
    digits = random_images(20, 28, 28), np.arange(20, dtype=np.uint8) % 10
    write_files(downloads / "mnist", idx_files(digits, digits))


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Project:
    """Return a project with the paper's grids and their rehearsals, before any run."""
    project = Project.create(tmp_path_factory.mktemp("paper") / "project")
    grids = project.folder / "configs" / "grid"
    (project.folder / GRID).unlink()
    for name in (*REHEARSALS, *REHEARSALS.values()):
        shutil.copy(REPOSITORY / "configs" / "grid" / f"{name}.yaml", grids)
    write_sources(project.folder / "downloads")
    dataset = project.folder / "configs/dataset/cifar10.yaml"
    source = "{kind: folder, root: downloads/cifar10.zip, test_fraction: 0.3}"
    dataset.write_text(dataset.read_text().partition("source:")[0] + f"source: {source}\n")
    write_random_inception(project.folder / "inception.pth")
    for metric in (project.folder / "configs" / "metric").glob("fid*.yaml"):
        text = metric.read_text()
        metric.write_text(
            text.replace("kind: inception", "kind: inception\n  weights: inception.pth")
        )
    # The weights of the large DINOv2 network have a gigabyte.
    small = {metric: f"{metric}-small" for metric in ("fd-dinov2", "memorization-dinov2")}
    for name in REHEARSALS.values():
        text = (grids / f"{name}.yaml").read_text()
        for size, smaller in SMALLER.items():
            assert size in text
            text = text.replace(size, smaller)
        rehearsal = yaml.safe_load(text)
        rehearsal["metrics"] = rehearsal.get("metrics", {}) | small
        (grids / f"{name}.yaml").write_text(yaml.safe_dump(rehearsal))
    torch.save(random_dinov2(384, 12), project.folder / "dinov2.pth")
    extractor = "{size: small, weights: dinov2.pth}"
    for metric, name in small.items():
        (project.folder / f"configs/metric/{name}.yaml").write_text(
            f"defaults: [{metric}, _self_]\nname: {name}\nfeatures: fd-dinov2-small\n"
            f"extractor: {extractor}\n"
        )
    return project


def one_model_of_each_kind(grid: Grid, shown: list[Cell]) -> set[str]:
    """Return the manifests of one network of each kind, if possible one that `shown` uses."""
    needed = [network for cell in shown for network in cell.networks]
    kinds = {}
    for record in (*needed, *grid.models.values(), *grid.guides.values()):
        settings = record.settings
        key = type(record), record.dataset, settings.process.kind, settings.network
        kinds.setdefault(key, record.manifest)
    return {*kinds.values()}


def kind(cell: Cell) -> tuple[str, ...]:
    sampler = cell.sampler.settings
    return sampler.integrator, getattr(sampler, "striding", ""), sampler.guidance.kind


def measures(cell: Cell) -> set[tuple[str, ...]]:
    dataset = cell.model.dataset
    return {("dataset", dataset), *(("metric", each.metric.name) for each in cell.measurements)}


def keys(cell: Cell) -> set[tuple[str, ...]]:
    return {kind(cell), *measures(cell)}


def one_of_each_kind(cells: list[Cell], done: set[tuple[str, ...]]) -> list[Cell]:
    """Choose a few cells of few models that cover all kinds of cells, datasets and metrics.

    Keys in `done` are already covered. The keys of the chosen cells are added to `done`.
    """
    chosen = []

    def gain(cell: Cell) -> tuple[int, bool]:
        return len(keys(cell) - done), cell.model.name in {each.model.name for each in chosen}

    while keys(best := max(cells, key=gain)) - done:
        chosen.append(best)
        done |= keys(best)
    return chosen


def to_measure(cells: list[Cell]) -> list[Cell]:
    """Choose some of the cells that cover all of their datasets and metrics."""
    done, chosen = set(), []
    for cell in sorted(cells, key=lambda cell: -len(measures(cell))):
        if measures(cell) - done:
            chosen.append(cell)
            done |= measures(cell)
    return chosen


def figures_of_other_kinds(grid: Grid, cells: list[Cell]) -> set[str]:
    """Return the figures of samples of kinds that `cells` does not contain."""
    kinds = set(map(kind, cells))
    return {f for f, cell in grid.file.figure_cells if kind(grid.cells[cell]) not in kinds}


PICTURES = {
    "rehearsal": ("figure3-cifar10", "figure3-afhqv2", "figure3-inpainting"),
    "denoiser-rehearsal": ("denoiser-figure2",),
}


@pytest.mark.slow
def test_one_model_and_cell_of_each_kind_run(project, monkeypatch):
    monkeypatch.chdir(project.folder)
    targets, models, measured, figures, done = {"rehearsal-table3"}, [], [], [], set()
    for name, pictures in PICTURES.items():
        grid = load_grid(name)
        cells = one_of_each_kind([e.cell for e in entries_in(grid) if e.cells], done)
        shown = figures_of_other_kinds(grid, cells) | {f"{name}-{each}" for each in pictures}
        drawn = [grid.cells[cell] for figure, cell in grid.file.figure_cells if figure in shown]
        manifests = one_model_of_each_kind(grid, [*cells, *drawn])
        targets |= {*manifests, *shown, *(record for cell in cells for record in cell.records)}
        models += [model for model in grid.models.values() if model.manifest in manifests]
        figures += [Path(f"results/figures/{name}/{figure}.png") for figure in shown]
        measured += to_measure(cells)
    project.run_in_one_process(*targets, *(cell.result for cell in measured))
    for model in models:
        manifest = read_manifest(model.folder, ModelManifest)
        assert manifest.step == 2
        assert manifest.settings.dataset.name == model.dataset
    for cell in measured:
        results = CellResults.read(cell.result).results
        for result, asked in zip(results, cell.measurements, strict=True):
            assert result.record == asked.digest(cell.digest)
            assert 0 <= result.estimate.value < np.inf
    for figure in figures:
        assert min(Image.open(figure).size) > 100
