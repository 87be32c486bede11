"""A grid with all the content of figures.

Its three models differ only in Γ. The paper has numbers for some cells. Some cells are measured,
others are missing.
"""

import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from psld.grid.cells import Grid
from psld.sampling.shards import Shard, ShardOrigin
from tests.report.certified import CERTIFICATE, certify, make_project
from tests.results import grid_content, link_grid, write_grid, write_result

GRID = grid_content("""
figures: {filled: cld/free-10}
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
def project(tmp_path_factory) -> Path:
    """A folder whose own configs are GRID."""
    return tmp_path_factory.mktemp("project")


@pytest.fixture(scope="session")
def grid(project) -> Grid:
    return write_grid(project, GRID)


@pytest.fixture
def folder(project, grid, tmp_path, monkeypatch) -> Path:
    """The working directory, in which the commands read GRID and find the results of MEASURED."""
    link_grid(project, tmp_path)
    for cell, value in MEASURED.items():
        write_result(tmp_path, grid, cell, value=value, floor=0.3)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def shard_of(images: np.ndarray, index: int = 0, dataset: str | None = None, **more: Any) -> Shard:
    """A shard with these images, which fill it."""
    origin = ShardOrigin(
        weights_sha256="w",
        sampler_digest="s",
        seed=0,
        index=index,
        size=len(images),
        dataset_digest=dataset,
    )
    return Shard(images, origin, nfe=10, seconds=1.0, device="CPU", **more)


def plain(*colors: tuple[int, int, int]) -> np.ndarray:
    """4×4 images of one color each."""
    return np.broadcast_to(np.array(colors, np.uint8)[:, :, None, None], (len(colors), 3, 4, 4))


class Page(HTMLParser):
    """The elements of a page, its texts, and those of the tables' cells."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.tables: list[list[list[str]]] = []
        self.in_cell = False
        self.text = ""
        self.feed(content)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.in_cell |= tag in ("td", "th")
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag):
        self.in_cell &= tag not in ("td", "th")

    def handle_comment(self, data):
        raise AssertionError(data)

    def handle_data(self, data):
        self.text += data
        if self.in_cell:
            self.tables[-1][-1][-1] += data

    def all(self, *names: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag in names]


@pytest.fixture(scope="session")
def made(once) -> Path:
    """A project whose results have a certificate."""

    def fill(folder: Path) -> None:
        make_project(folder)
        certify(folder)

    return once("certified", fill)


@pytest.fixture
def copied(made, tmp_path) -> Path:
    """A copy of the project to change."""
    return shutil.copytree(made, tmp_path / "project")


@pytest.fixture(scope="session")
def certificate(made) -> bytes:
    return (made / CERTIFICATE).read_bytes()
