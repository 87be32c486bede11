"""The grid SHOWN with some measured cells, pages, and a project with a certificate."""

import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from psld.grid.cells import Grid
from psld.sampling.shards import Shard, ShardOrigin
from tests.grid.mine import SHOWN, grid_in, link_grid, written_once
from tests.report.certified import CERTIFICATE, certify, make_project
from tests.results import write_result

MEASURED = {
    "cld/em-10": (8.5, 0.01),
    "cld/em-20": (4.25, 0.01),
    "low/em-10": (7.5, 0.1),
    "high/em-10": (9.25, 0.01),
    "vp-sde/em-20": (2.5, 0.01),
    "cld/rk45-1e-2": (5.5, 0.01),
}
"""The distance and its standard error for the cells that have been run."""


@pytest.fixture(scope="session")
def project(once) -> Path:
    """A folder with the grid SHOWN in configs/."""
    return written_once(once, "shown", SHOWN)


@pytest.fixture(scope="session")
def grid(project) -> Grid:
    return grid_in(project)


@pytest.fixture
def folder(project, grid, tmp_path, monkeypatch) -> Path:
    """The working directory, with the grid SHOWN and the results MEASURED."""
    link_grid(project, tmp_path)
    for cell, (value, error) in MEASURED.items():
        write_result(tmp_path, grid, cell, value=value, error=error)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def shard_of(images: np.ndarray, index: int = 0, dataset: str | None = None, **more: Any) -> Shard:
    """A shard that consists of these images."""
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
    """Parses a page: its elements, its text, and the texts of its table cells."""

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
