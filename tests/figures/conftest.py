"""A grid with everything that pictures show: models, of which three are alike but for Γ, and what
the paper says of some; its cells partly measured, partly missing."""

import contextlib
import json
import shutil
from pathlib import Path

import pytest
import yaml

import psld.commands.plot
import psld.commands.sheet
from psld.commands.entry import CONFIGS
from psld.grid.loading import Grid, load_grid
from tests.results import made_with

GRID = yaml.safe_load("""
defaults: [dataset=digits, network=demo, training=demo]
metric: fd-classifier
samples: 100
shard_size: 50
batch_size: 50
gallery: em-10
models:
  vp-sde: [process=vp-sde]
  cld: [process=cld]
  low: [process=psld, process.gamma=0.01]
  high: [process=psld, process.gamma=0.25]
  longer: [process=psld, process.gamma=0.01, training.steps=1300]
samplers:
  em: {overrides: [sampler=em], budget: sampler.steps}
  rk45: {overrides: [sampler=rk45], budget: sampler.tolerance}
  free: {overrides: [sampler=em, guidance@sampler.guidance=inpainting], budget: sampler.steps}
tables:
  mine:
    title: Mine
    headings: [model]
    cell: {sampler: em}
    columns:
      - {label: "20", budget: 20}
      - {label: "10", budget: 10}
    rows:
      - {label: [CLD], model: cld, paper: [4.0, 8.0]}
      - {label: [low], model: low}
      - {label: [high], model: high, paper: [null, 9.0]}
      - {label: [VP-SDE], model: vp-sde}
  few:
    title: Fewer samples
    headings: [model]
    cell: {sampler: em, samples: 50}
    columns:
      - {label: "20", budget: 20}
    rows:
      - {label: [CLD], model: cld, paper: [6.0]}
  ode:
    title: ODE
    headings: [model]
    cell: {sampler: rk45, budget: 1e-2}
    columns:
      - {label: distance}
      - {label: NFE, show: nfe}
      - {label: more, budget: 1e-3}
    rows:
      - {label: [CLD], model: cld, paper: [5.0, 80, 4.5]}
  holes:
    title: Guided
    headings: [model]
    cell: {sampler: free, budget: 10}
    columns:
      - {label: distance}
    rows:
      - {label: [CLD], model: cld}
""")

MEASURED = {
    "cld/em-10": 8.5,
    "cld/em-20": 4.25,
    "low/em-10": 7.5,
    "high/em-10": 9.5,
    "vp-sde/em-20": 2.5,
    "cld/rk45-1e-2": 5.5,
}
"""The distance of the cells that have been run; the others have not."""


@pytest.fixture(scope="session")
def configs(tmp_path_factory) -> Path:
    """The configs with GRID for their only grid."""
    folder = tmp_path_factory.mktemp("project") / "configs"
    shutil.copytree(CONFIGS, folder, ignore=shutil.ignore_patterns("grid"))
    (folder / "grid").mkdir()
    (folder / "grid" / "mine.yaml").write_text(yaml.safe_dump(GRID, sort_keys=False))
    return folder


@pytest.fixture(scope="session")
def grid(configs) -> Grid:
    with contextlib.chdir(configs.parent):
        return load_grid("mine", configs)


@pytest.fixture
def folder(configs, grid, tmp_path, monkeypatch) -> Path:
    """A folder where the commands read GRID and find the metrics of MEASURED."""
    for module in (psld.plot, psld.sheet):
        monkeypatch.setattr(module, "CONFIGS", configs)
    shutil.copytree(configs.parent / ".cache", tmp_path / ".cache")
    for cell, value in MEASURED.items():
        path = result_path(tmp_path, cell)
        path.parent.mkdir(parents=True)
        steps = cell.rpartition("-")[2]
        nfe = 81.0 if "rk45" in cell else float(steps)
        result = {**made_with(grid, cell), "value": value, "nfe": nfe}
        scale = {"floor": 0.3, "noise": 98.76, "extractor_test_accuracy": 0.987}
        path.write_text(json.dumps(result | scale))
    return tmp_path


def cells_of(folder: Path) -> Path:
    return folder / "results" / "cells" / "mine"


def result_path(folder: Path, cell: str) -> Path:
    return cells_of(folder) / cell / "fd-classifier-100.json"
