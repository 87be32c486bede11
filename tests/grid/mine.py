"""A small grid file, configs/grid/mine.yaml, and changes to it and to other grids."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from psld.grid.cache import load_grid
from psld.grid.cells import Grid
from psld.grid.schema import GridFile
from psld.grid.workflow import Workflow

TEXT = """
defaults: [dataset=digits, network=demo, training=demo, training.steps=7]
metric: fd-classifier
samples: 100
shard_size: 30
batch_size: 10
gallery: em-10
models: {vp-sde: [process=vp-sde], psld: [process=psld, training.steps=9]}
samplers:
  em: {overrides: [sampler=em], budget: sampler.steps}
  em-quadratic: {overrides: [sampler=em, sampler.striding=quadratic], budget: sampler.steps}
  rk45: {overrides: [sampler=rk45], budget: sampler.tolerance}
tables:
  steps:
    title: Steps
    headings: [sampler, model]
    cell: {sampler: em, budget: 10}
    columns: [{label: "10"}, {label: "20", budget: 20}]
    rows:
      - {label: [EM, PSLD], model: psld}
      - {label: [EM-QS, PSLD], model: psld, sampler: em-quadratic}
      - {label: [EM, another paper's], literature: true, paper: [3.0, 2.0]}
  tolerance:
    title: Tolerance
    headings: [model]
    columns: [{label: few, samples: 50}, {label: fid, show: value}, {label: NFE, show: nfe}]
    rows:
      - {label: [VP-SDE], model: vp-sde, sampler: rk45, budget: "1e-2"}
      - {label: [PSLD], model: psld, sampler: em, budget: 10}
"""
CONTENT: dict[str, Any] = yaml.safe_load(TEXT)


def changed(path: str, value: Any) -> dict[str, Any]:
    """CONTENT with one value, named by its keys, replaced."""
    content = place = yaml.safe_load(TEXT)
    *parents, last = path.split("/")
    for key in parents:
        place = place[int(key) if isinstance(place, list) else key]
    place[int(last) if isinstance(place, list) else last] = value
    return content


def with_models(models: dict[str, Any]) -> dict[str, Any]:
    """CONTENT with these models alone, each at two budgets."""
    rows = [{"label": ["EM", name], "model": name} for name in models]
    table = CONTENT["tables"]["steps"] | {"rows": rows}
    return CONTENT | {"models": models, "tables": {"steps": table}}


def load(configs: Path, content: dict[str, Any] = CONTENT) -> Grid:
    (configs / "grid" / "mine.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return load_grid("mine")


def file_with(grid: Grid, **changes: Any) -> Grid:
    """The grid with a file that says something else. (A copy of a file keeps what it computed.)"""
    content = {key: getattr(grid.file, key) for key in GridFile.model_fields}
    return replace(grid, file=GridFile(**(content | changes)))


def workflow_of(grids: dict[str, Grid]) -> Workflow:
    return Workflow({name: grid.file for name, grid in grids.items()}, grids)
