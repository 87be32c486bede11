"""The paper's grid, rehearsed through the workflow: each model, and a cell of each kind.

A kind is dataset × integrator × striding × guidance × metric. Images come in the formats in which
the real ones are published, and Inception has random weights.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from psld.files import read_json
from psld.grid import Evaluation, Grid, load_grid
from tests.datasets.formats import (
    afhq_files,
    celeba_files,
    cifar_pickled_batch,
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


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Project:
    """The project with the paper's grid and its rehearsal, before anything is run."""
    project = Project.create(tmp_path_factory.mktemp("paper") / "project")
    grids = project.folder / "configs" / "grid"
    for grid in grids.iterdir():
        grid.unlink()
    for name in GRIDS:
        shutil.copy(REPOSITORY / "configs" / "grid" / f"{name}.yaml", grids)
    write_sources(project.folder / "downloads")
    write_random_inception(project.folder / "inception.pth")
    for metric in (project.folder / "configs" / "metric").glob("fid*.yaml"):
        text = metric.read_text()
        metric.write_text(text.replace("weights: null", "weights: inception.pth"))
    return project


def kind(grid: Grid, evaluation: Evaluation) -> tuple[object, ...]:
    sampler = grid.samplers[evaluation.sampler].settings
    guidance = sampler.get("guidance", {"kind": "none"})["kind"]
    return (
        grid.models[evaluation.model].dataset,
        sampler["integrator"],
        sampler.get("striding"),
        guidance,
        evaluation.metric,
    )


def one_of_each_kind(grid: Grid) -> Iterator[Evaluation]:
    seen = set()
    for evaluation in grid.evaluations:
        if kind(grid, evaluation) not in seen:
            seen.add(kind(grid, evaluation))
            yield evaluation


@pytest.mark.slow
def test_every_model_and_a_cell_of_every_kind_run(project, monkeypatch):
    monkeypatch.chdir(project.folder)
    grid = load_grid("rehearsal", project.folder / "configs")
    evaluations = list(one_of_each_kind(grid))
    models = [Path(f"models/rehearsal/{model}/manifest.json") for model in grid.models]
    metrics = [Path(f"results/cells/rehearsal/{e.cell}/{e.file_name}") for e in evaluations]
    project.run(*map(str, models + metrics), "results/tables/rehearsal/rehearsal-table3.md")
    for model, path in zip(grid.models, models, strict=True):
        manifest = read_json(path)
        assert manifest["step"] == 4
        assert manifest["settings"]["dataset"]["name"] == grid.models[model].dataset
    for evaluation, path in zip(evaluations, metrics, strict=True):
        result = read_json(path)
        assert result["metric"] == evaluation.metric
        assert result["value"] > 0
        assert np.isfinite(result["value"])
        assert result["samples"] == evaluation.samples
