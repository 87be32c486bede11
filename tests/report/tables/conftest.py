"""A grid whose cells are partly measured, partly missing, and readers of its tables."""

import csv
import re
from pathlib import Path

import pytest

from psld.grid.cells import Grid
from psld.report.table import SYMBOLS
from tests.commands import call, succeeded
from tests.results import grid_content, link_grid, write_grid, write_result

GRID = grid_content("""
models:
  cld: [process=cld]
  psld: [process=psld]
samplers:
  em: {overrides: [sampler=em], budget: sampler.steps}
  sscs: {overrides: [sampler=sscs], budget: sampler.steps}
tables:
  mine:
    title: "Mine: 50% & <more>"
    caption: A caption_with an underscore.
    headings: [sampler, model]
    footnotes: [A note of the paper's.]
    band: {absolute: 0.1, relative: 0.05, reason: Chosen for this test.}
    columns:
      - {label: "10", budget: 10}
      - {label: NFE at 10, budget: 10, show: nfe}
      - {label: "20", budget: 20}
    rows:
      - {label: [EM, CLD], sampler: em, model: cld, paper: [2.0, 10, null], source: V}
      - {label: [EM, "PSLD #1_a"], sampler: em, model: psld, paper: [9.0, 10, 3.0]}
      - {label: [SSCS, "PSLD #1_a"], sampler: sscs, model: psld}
      - {label: [EM, "another's"], literature: true, paper: [3.17, 1000, null]}
""")

MEASURED = {
    "cld/em-10": (2.0625, 0.01),
    "cld/em-20": (1.5, 0.01),
    "psld/em-10": (7.25, 0.1),
    "psld/sscs-20": (1234.5, 10),
}
"""The distance and its standard error of the cells that have been run; two have not."""

PRINTED = [
    ["EM", "CLD", "2.06 ± 0.02 ★ (2.00, +0.06 ✓¹)", "10 (10, +0)", "1.50 ± 0.02 ★"],
    ["EM", "PSLD #1_a", "7.25 ± 0.21 (9.00, -1.75 ✗¹)", "10 (10, +0)", "– (3.00)"],
    ["SSCS", "PSLD #1_a", "–", "–", "1234.50 ± 20.93"],
    ["EM", "another's", "3.17†", "1000†", "–"],
]


@pytest.fixture(scope="session")
def project(tmp_path_factory) -> Path:
    """A folder whose own configs are GRID."""
    return tmp_path_factory.mktemp("project")


@pytest.fixture(scope="session")
def grid(project) -> Grid:
    return write_grid(project, GRID)


@pytest.fixture
def folder(project, grid, tmp_path, monkeypatch) -> Path:
    """The working directory, in which the command reads GRID and finds the results of MEASURED."""
    link_grid(project, tmp_path)
    for cell, (value, error) in MEASURED.items():
        write_result(tmp_path, grid, cell, value=value, error=error)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def tabulate(folder: Path) -> dict[str, str]:
    """The table in each format."""
    finished = succeeded(call(folder, "tabulate", "grid_name=mine", "table=mine"))
    assert finished.stdout.startswith("wrote results/tables/mine/mine.csv, ")
    return tables(folder)


def tables(folder: Path) -> dict[str, str]:
    files = (folder / "results/tables/mine").iterdir()
    return {path.name.removeprefix("mine."): path.read_text() for path in files}


def records(folder: Path) -> list[dict[str, str]]:
    """The lines of the table's CSV."""
    return list(csv.DictReader(tabulate(folder)["csv"].splitlines()))


def body_of_markdown(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def body_of_latex(text: str) -> list[list[str]]:
    body = re.search(r"\\midrule\n(.*?)\\bottomrule", text, re.DOTALL)[1]
    rows = [line.removesuffix(r" \\") for line in body.splitlines()]
    return [[unescaped(cell) for cell in row.split(" & ")] for row in rows]


def unescaped(text: str) -> str:
    """The characters that LaTeX prints."""
    for character, command in SYMBOLS.items():
        text = text.replace(command, character)
    return text
