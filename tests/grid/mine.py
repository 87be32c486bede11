"""Small grids for tests, written to configs/grid/mine.yaml, and functions that change them."""

import contextlib
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from psld.grid.cache import load_grid
from psld.grid.cells import Grid
from psld.grid.schema import GridFile
from psld.grid.workflow import Workflow
from psld.utils.errors import UserError
from psld.utils.files import write_text
from tests.shared import Once

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


def changed(path: str, value: Any, content: dict[str, Any] = CONTENT) -> dict[str, Any]:
    """Return a copy of `content` with the value at `path` (keys joined by /) replaced."""
    content = place = deepcopy(content)
    *parents, last = path.split("/")
    for key in parents:
        place = place[int(key) if isinstance(place, list) else key]
    place[int(last) if isinstance(place, list) else last] = value
    return content


def with_models(models: dict[str, Any]) -> dict[str, Any]:
    """Return CONTENT with only these models, each at two budgets."""
    rows = [{"label": ["EM", name], "model": name} for name in models]
    table = CONTENT["tables"]["steps"] | {"rows": rows}
    return CONTENT | {"models": models, "tables": {"steps": table}}


def load(configs: Path, content: dict[str, Any] = CONTENT) -> Grid:
    (configs / "grid" / "mine.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return load_grid("mine")


def file_with(grid: Grid, **changes: Any) -> Grid:
    """Return a new grid with a changed file, because a copy would keep its cached values."""
    content = {key: getattr(grid.file, key) for key in GridFile.model_fields}
    return replace(grid, file=GridFile(**(content | changes)))


def workflow_of(grids: dict[str, Grid]) -> Workflow:
    return Workflow({name: grid.file for name, grid in grids.items()}, grids)


# -- grids with other tables -----------------------------------------------------------------------

COMMON: dict[str, Any] = yaml.safe_load("""
defaults: [dataset=digits, network=demo, training=demo]
metric: fd-classifier
samples: 100
shard_size: 50
batch_size: 50
gallery: em-10
samplers:
  em: {overrides: [sampler=em], budget: sampler.steps}
  rk45: {overrides: [sampler=rk45], budget: sampler.tolerance}
  sscs: {overrides: [sampler=sscs], budget: sampler.steps}
  few: {overrides: [sampler=few], budget: sampler.steps}
  free: {overrides: [sampler=em, guidance@sampler.guidance=classifier-free], budget: sampler.steps}
  holes: {overrides: [sampler=em, guidance@sampler.guidance=inpainting], budget: sampler.steps}
""")
"""Common entries of grids that test tables. Only samplers that a table uses are resolved."""


def grid_content(text: str) -> dict[str, Any]:
    """Return the content of a grid of the digits with the entries of a YAML text."""
    return COMMON | yaml.safe_load(text)


SHOWN = grid_content("""
figures: {filled: cld/holes-10}
models:
  vp-sde: [process=vp-sde]
  cld: [process=cld]
  low: [process=psld, process.gamma=0.01]
  high: [process=psld, process.gamma=0.25]
  longer: [process=psld, process.gamma=0.01, training.steps=1300]
tables:
  mine:
    title: "Mine: 50% & <more>"
    caption: A caption_with an underscore.
    headings: [sampler, model]
    footnotes: [A note of the paper's.]
    band: {absolute: 0.1, relative: 0.05, reason: Chosen for this test.}
    cell: {sampler: em}
    columns:
      - {label: "20", budget: 20}
      - {label: "10", budget: 10}
      - {label: NFE at 10, budget: 10, show: nfe}
    rows:
      - {label: [EM, CLD], model: cld, paper: [4.0, 8.0, 10], source: V}
      - {label: [EM, "low #1_a"], model: low}
      - {label: [EM, high], model: high, paper: [3.0, 9.0, 10]}
      - {label: [EM, VP-SDE], model: vp-sde}
      - {label: [EM, "another's"], literature: true, paper: [3.17, null, 1000]}
  few:
    title: Fewer samples
    headings: [model]
    cell: {sampler: em, samples: 50}
    columns: [{label: "20", budget: 20}]
    rows: [{label: [CLD], model: cld, paper: [6.0]}]
  ode:
    title: ODE
    headings: [model]
    cell: {sampler: rk45, budget: 1e-2}
    columns: [{label: distance}, {label: NFE, show: nfe}, {label: more, budget: 1e-3}]
    rows: [{label: [CLD], model: cld, paper: [5.0, 80, 4.5]}]
  holes:
    title: Guided
    headings: [model]
    cell: {sampler: holes, budget: 10}
    columns: [{label: distance}]
    rows: [{label: [CLD], model: cld}]
""")
"""A grid with everything that tables and figures show. Models low and high differ only in Γ."""

SEEDED = grid_content("""
shard_size: 100
seeds: {training: [0, 1, 2], sampling: [0, 7]}
figures: {mine-thirty: psld/em-30}
models:
  psld: [process=psld]
  vp-sde: [process=vp-sde]
  official: {overrides: [process=psld], checkpoint: official.ckpt}
tables:
  mine-all:
    title: Mine
    headings: [model]
    cell: {sampler: em}
    columns: [{label: "10", budget: 10}, {label: "20", budget: 20}]
    rows: [{label: [PSLD], model: psld}, {label: [official], model: official}]
  mine-samplers:
    title: Samplers
    headings: [sampler]
    cell: {model: psld, budget: 10}
    columns: [{label: "10"}]
    rows: [{label: [SSCS], sampler: sscs}, {label: [Inpainted], sampler: holes}]
""")
"""A grid whose entries are means over three trainings and two sampling seeds."""


def write_grid(folder: Path, content: dict[str, Any]) -> Grid:
    """Write the grid `mine` into the configs of `folder`, and load it."""
    write_text(folder / "configs/grid/mine.yaml", yaml.safe_dump(content, sort_keys=False))
    return grid_in(folder)


def grid_in(folder: Path) -> Grid:
    with contextlib.chdir(folder):
        return load_grid("mine")


def written_once(once: Once, name: str, content: dict[str, Any]) -> Path:
    """Return a shared folder with the grid `mine`. Tests must not change this folder."""
    return once(f"grid-{name}", lambda folder: write_grid(folder, content))


def link_grid(project: Path, folder: Path) -> None:
    """Link configs and cache of `project` into `folder`, because resolving takes seconds."""
    for name in ("configs", ".cache"):
        (folder / name).symlink_to(project / name)


def refusal(configs: Path, content: dict[str, Any] | str, complaint: str) -> None:
    """Assert that a grid file is refused with a one-line error and that no cache is written."""
    text = content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False)
    (configs / "grid" / "mine.yaml").write_text(text)
    with pytest.raises(UserError, match=complaint) as refused:
        load_grid("mine")
    assert str(refused.value).startswith(f"{configs}/grid/mine.yaml: ")
    assert "\n" not in str(refused.value)
    assert not Path(".cache").exists()
