"""The paper's grid, rehearsed through the workflow: each model, and a cell of each kind.

A kind is dataset × integrator × striding × guidance × metric. Images have the formats of the
published sources, and Inception has random weights.
"""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from psld.grid import paths
from psld.grid.cache import load_grid
from psld.grid.places import Evaluation
from psld.grid.resolved import Grid
from psld.grid.results import read_result
from psld.training.manifest import read_manifest
from tests.data.formats import (
    afhq_files,
    celeba_files,
    cifar_pickled_batch,
    idx_files,
    random_images,
    write_files,
    write_tar,
    write_zip,
)
from tests.metrics.random_inception import write_random_inception
from tests.workflow.project import REPOSITORY, Project

GRIDS = ("paper", "rehearsal")


def write_sources(downloads: Path) -> None:
    """Small archives as their publishers name and pack them."""
    batches = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
    cifar = {
        f"cifar-10-batches-py/{name}": cifar_pickled_batch(
            random_images(10, 3072, seed=i), np.arange(10)
        )
        for i, name in enumerate(batches)
    }
    write_tar(downloads / "cifar10" / "cifar-10-python.tar.gz", cifar)
    write_zip(downloads / "celeba" / "img_align_celeba.zip", celeba_files(20))
    write_files(downloads / "afhqv2", afhq_files(train=4, test=4))
    digits = random_images(20, 28, 28), np.arange(20, dtype=np.uint8) % 10
    write_files(downloads / "mnist", idx_files(digits, digits))


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Project:
    """The project with the paper's grid and its rehearsal, before anything is run."""
    project = Project.create(tmp_path_factory.mktemp("paper") / "project")
    grids = project.folder / "configs" / "grid"
    for grid in grids.iterdir():
        grid.unlink()
    for name in GRIDS:
        shutil.copy(REPOSITORY / "configs" / "grid" / f"{name}.yaml", grids)
    project.timeout = 1800
    write_sources(project.folder / "downloads")
    write_random_inception(project.folder / "inception.pth")
    for metric in (project.folder / "configs" / "metric").glob("fid*.yaml"):
        text = metric.read_text()
        metric.write_text(text.replace("weights: null", "weights: inception.pth"))
    return project


Kind = tuple[str, str, str | None, str, str | None]


def kind(grid: Grid, cell: str, metric: str | None = None) -> Kind:
    """Dataset, integrator, striding, guidance and metric, which a cell that is shown has not."""
    model, name = cell.split("/")
    sampler = grid.samplers[name]
    integrator, striding = sampler.settings["integrator"], sampler.settings.get("striding")
    return grid.models[model].dataset, integrator, striding, sampler.guidance, metric


def one_of_each_kind(grid: Grid) -> list[Evaluation]:
    kinds = {kind(grid, e.cell, e.metric): e for e in reversed(grid.evaluations)}
    return list(kinds.values())


def figures_of_other_kinds(grid: Grid, evaluations: list[Evaluation]) -> list[str]:
    """Figures of samples that stand in no table."""
    evaluated = {kind(grid, e.cell) for e in evaluations}
    return [f for f, cell in grid.file.pictures.items() if kind(grid, cell) not in evaluated]


@pytest.mark.slow
def test_every_model_and_a_cell_of_every_kind_run(project, monkeypatch):
    monkeypatch.chdir(project.folder)
    grid = load_grid("rehearsal")
    evaluations = one_of_each_kind(grid)
    figures = [*figures_of_other_kinds(grid, evaluations), "rehearsal-figure3-inpainting"]
    assert {"rehearsal-figure3-cifar10", "rehearsal-figure3-afhqv2"} < set(figures)
    models = [f"{paths.model_folder('rehearsal', model)}/manifest.json" for model in grid.models]
    results = {paths.cell_result("rehearsal", evaluation.cell) for evaluation in evaluations}
    project.run(*models, *results, *figures, "rehearsal-table3")
    for model, path in zip(grid.models, models, strict=True):
        manifest = read_manifest((project.folder / path).parent)
        assert manifest.step == 4
        assert manifest.settings.dataset.name == grid.models[model].dataset
    for evaluation in evaluations:
        result = read_result(grid, project.folder / "results/cells/rehearsal", evaluation)
        assert result, "made with what the grid says"
        assert result.samples == evaluation.samples
        assert 0 < result.value < np.inf
    assert len(project.files("guides")) == 6, "weights, history and manifest of both"
    for figure in figures:
        picture = Image.open(project.folder / f"results/figures/rehearsal/{figure}.png")
        assert min(picture.size) > 100
