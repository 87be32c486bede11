"""Tables and plots of cells with several seeds."""

import csv
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev

import numpy as np
import pytest
from scipy.stats import t

from psld.grid.entries import read_table
from psld.grid.measured import Measured
from psld.grid.resolved import Grid
from psld.grid.tables import Band
from psld.report.formats import as_csv
from psld.report.page import results_page
from psld.report.plots import plot_nfe
from psld.report.table import text_of
from tests.grid.test_seeds import CONTENT
from tests.results import cell_result, write_grid, write_result

VALUES = {
    "psld/em-10": 2.0,
    "psld/em-10-seed7": 2.1,
    "psld-seed1/em-10": 2.5,
    "psld-seed1/em-10-seed7": 2.6,
    "psld-seed2/em-10": 2.2,
    "psld-seed2/em-10-seed7": 2.3,
    "official/em-10": 2.4,
    "official/em-10-seed7": 2.6,
    "psld/em-20": 1.0,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("seeds")


@pytest.fixture(scope="module")
def grid(folder) -> Grid:
    grid = write_grid(folder, CONTENT)
    for cell, value in VALUES.items():
        write_result(folder, grid, cell, value=value, error=0.05)
    return grid


@pytest.fixture(scope="module")
def cells(folder, grid) -> Path:
    return folder / "results" / "cells" / grid.name


@pytest.fixture(scope="module")
def rows(grid, cells):
    return read_table(grid, "mine-all", cells)


def test_a_table_shows_mean_deviation_minimum_and_the_number_of_seeds(grid, rows):
    text = text_of(grid.file.tables["mine-all"], rows)
    assert text.columns == ["model", "seeds", "10", "20"]
    values = [value for cell, value in VALUES.items() if "psld" in cell and "em-10" in cell]
    psld = f"{fmean(values):.2f} ± {stdev(values):.2f}, min 2.00 ★"
    assert text.lines == [
        ["PSLD", "1 of 6, 6", psld, "1.00 ± 0.10"],
        ["official", "0 of 2, 2", "2.50 ± 0.14, min 2.40 ≈", "–"],
    ]
    assert any("mean ± standard deviation over seeds" in note for note in text.notes)
    assert any("covers training again" in note for note in text.notes)


def test_the_interval_of_several_trainings_is_that_of_their_spread_if_wider(grid, rows):
    table = grid.file.tables["mine-all"]
    records = list(csv.DictReader(as_csv(grid, table, rows).splitlines()))
    assert [record["seeds"] for record in records] == ["6", "1", "2", "0"]
    trainings = [2.05, 2.55, 2.25]  # means over sampling seeds
    margin = t.ppf(0.975, 2) * stdev(trainings) / 3**0.5
    ends = [float(records[0][end]) for end in ("low", "high")]
    assert ends == pytest.approx([fmean(trainings) - margin, fmean(trainings) + margin])
    # One training: the blocks of both sampling seeds together.
    [_, _], [official, _] = rows
    assert official.interval.half_width < 2.1 * 0.05
    assert records[2]["minimum"] == "2.4"


def test_a_plot_has_the_mean_with_its_interval(grid, cells, rows):
    [axes] = [axes for axes in plot_nfe(grid, cells).axes if axes.get_title()]
    lines = {line.get_label(): line.get_xydata().tolist() for line in axes.get_lines()}
    [first, _] = rows[0]
    assert np.allclose(lines["psld"], [[10, first.value], [20, 1.0]])
    bars = [segment for bars in axes.collections for segment in bars.get_segments()]
    ends = [[10, first.interval.low], [10, first.interval.high]]
    assert any(np.allclose(bar, ends) for bar in bars)


def test_an_entry_that_is_undecided_by_its_trainings_needs_more_of_them(grid, cells):
    """More samples do not narrow the spread over trainings."""
    table = grid.file.tables["mine-all"]
    band = Band(absolute=0.5, relative=0.0, reason="A test.")
    shown = read_table(grid, "mine-all", cells)
    [[first, _], [official, _]] = [
        [replace(entry, paper=2.0, band=band) for entry in row] for row in shown
    ]
    assert (first.status, first.needs, first.more_samples) == ("undecided", "trainings", None)
    assert (official.status, official.needs) == ("undecided", "samples")
    notes = text_of(table, [[first], [official]]).notes
    assert any("1 entry can be decided by more trainings only" in note for note in notes)
    zero = replace(first, paper=0.0, band=band)
    assert (zero.width, zero.status) == (0.5, "off")


def test_blocks_of_variables_decide_if_a_difference_is_paired(grid):
    def measured(name: str, kind: str) -> Measured:
        result = cell_result(grid, "psld/em-10", value=2.0, error=0.1)
        settings = result.model.settings | {"process": {"kind": kind}}
        model = result.model.model_copy(update={"name": name, "settings": settings})
        return Measured((result.model_copy(update={"model": model}),))

    assert measured("a", "psld").difference(measured("b", "psld")).paired
    assert not measured("a", "psld").difference(measured("b", "vp-sde")).paired


def test_a_table_without_results_says_how_many_seeds_are_missing(grid, tmp_path):
    rows = read_table(grid, "mine-all", tmp_path)
    lines = text_of(grid.file.tables["mine-all"], rows).lines
    assert [line[1] for line in lines] == ["0 of 6", "0 of 2"]


def test_the_page_lists_the_budget_of_a_figure_with_a_seed(tmp_path):
    content = CONTENT | {"figures": {"mine-seven": "psld/em-30-seed7"}}
    page = results_page(write_grid(tmp_path, content), tmp_path, tmp_path)
    assert "em (10, 20, 30)" in page
