"""The entries of tables: numbers of several seeds, their intervals, differences and verdicts."""

import contextlib
import csv
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
import pytest
from scipy.stats import t

from psld.grid.cache import load_grid
from psld.grid.cells import Cell, Grid
from psld.grid.entries import Entry
from psld.grid.rows import all_entries, as_csv, read_table
from psld.grid.tables import Band
from psld.metrics.results import CellResult
from tests.results import cell_result, grid_content, write_grid, write_result

GRID = grid_content("""
shard_size: 100
seeds: {training: [0, 1, 2], sampling: [0, 7]}
figures: {mine-thirty: psld/em-30}
models:
  psld: [process=psld]
  vp-sde: [process=vp-sde]
  official: {overrides: [process=psld], checkpoint: official.ckpt}
samplers:
  em: {overrides: [sampler=em], budget: sampler.steps}
  sscs: {overrides: [sampler=sscs], budget: sampler.steps}
  inpainted:
    overrides: [sampler=em, guidance@sampler.guidance=inpainting, mask@sampler.guidance.mask=halves]
    budget: sampler.steps
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
    rows: [{label: [SSCS], sampler: sscs}, {label: [Inpainted], sampler: inpainted}]
""")

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
def folder(once) -> Path:
    def fill(folder: Path) -> None:
        grid = write_grid(folder, GRID)
        for cell, value in VALUES.items():
            write_result(folder, grid, cell, value=value, error=0.05)

    return once("seeds", fill)


@pytest.fixture(scope="module")
def grid(folder) -> Grid:
    with contextlib.chdir(folder):
        return load_grid("mine")


@pytest.fixture(scope="module")
def rows(grid, folder):
    return read_table(grid, "mine-all", folder)


def test_the_interval_of_several_trainings_adds_their_spread_to_the_error_of_samples(grid, rows):
    table = grid.file.tables["mine-all"]
    lines = list(csv.DictReader(as_csv(table, rows).splitlines()))
    assert [line["seeds"] for line in lines] == ["6", "1", "2", "0"]
    trainings = [2.05, 2.55, 2.25]  # means over sampling seeds
    drawn = t.ppf(0.975, 39) * 0.05 / 2**0.5  # the blocks of two sampling seeds
    margin = np.hypot(t.ppf(0.975, 2) * stdev(trainings) / 3**0.5, drawn)
    ends = [float(lines[0][end]) for end in ("low", "high")]
    assert ends == pytest.approx([fmean(trainings) - margin, fmean(trainings) + margin], rel=1e-3)
    # One training: the blocks of both sampling seeds together.
    [_, _], [official, _] = rows
    assert official.interval.half_width < 2.1 * 0.05
    assert lines[2]["minimum"] == "2.4"


def against(entry: Entry, paper: float, band: float = 1.0) -> Entry:
    """The entry with a number of the paper, from which it may differ by this."""
    band_of_test = Band(absolute=band, relative=0.0, reason="A test.")
    return replace(entry, paper=paper, band=band_of_test)


def test_an_entry_that_is_undecided_by_its_trainings_needs_more_of_them(grid, rows):
    """More samples do not narrow the spread over trainings. Imported weights have none."""
    first, official = (against(row[0], paper=2.05, band=0.5) for row in rows)
    assert (first.status, first.needs, first.more_samples) == ("undecided", "trainings", None)
    assert (official.status, official.needs) == ("undecided", "samples")
    at_the_end = against(official, paper=2.0, band=0.5)
    assert (at_the_end.status, at_the_end.needs) == ("undecided", None)
    assert at_the_end.more_samples is None
    zero = against(first, paper=0.0, band=0.5)
    assert (zero.width, zero.status) == (0.5, "off")


def test_fewer_than_three_trainings_give_a_verdict_of_these_weights_alone(grid, rows):
    """Three do not, unless they have different weights."""
    three, one = rows[0]
    two = replace(three, by_cell=dict(list(three.by_cell.items())[:4]))
    same = replace(three, by_cell=with_weights(three, weights_sha256="0" * 64))
    entries = [
        *(against(three, paper=2.2), against(two, paper=2.2, band=9)),
        *(against(one, paper=1.1), against(one, paper=9), against(same, paper=2.2)),
    ]
    assert [entry.status for entry in entries] == [
        *("reproduced", "agrees for these weights", "agrees for these weights"),
        *("differs for these weights", "agrees for these weights"),
    ]
    undecided = against(one, paper=2.0)
    assert (undecided.status, undecided.needs) == ("undecided", "trainings")
    assert undecided.more_samples is None


def with_weights(entry: Entry, **fields: Any) -> dict[Cell, CellResult]:
    """The results of an entry, of other weights."""
    results = entry.by_cell.items()
    return {
        c: r.model_copy(update={"model": r.model.model_copy(update=fields)}) for c, r in results
    }


def with_results(grid: Grid, results: dict[str, float], error: float) -> Entry:
    """An entry with the results of these cells."""
    made = {grid.cells[n]: cell_result(grid, n, value=v, error=error) for n, v in results.items()}
    return replace(all_entries(grid)["mine-all"][0][0], by_cell=made)


def test_seeds_and_blocks_of_variables_decide_if_a_difference_is_paired(grid):
    """Not the sampler: all of them start with the same noise."""

    def is_paired(name: str) -> bool:
        psld, other = (with_results(grid, {n: 2.0}, error=0.1) for n in ("psld/em-10", name))
        return psld.minus(other).paired

    assert is_paired("official/em-10")
    assert is_paired("psld/sscs-10")
    assert not is_paired("vp-sde/em-10")
    assert not is_paired("psld/em-10-seed7")


def test_trainings_are_paired_if_both_samplers_use_the_same(grid):
    """The spread over trainings is large, but that of the differences is small."""
    models = ("psld", "psld-seed1", "psld-seed2")

    def results(sampler: str, shift: float) -> Entry:
        names = [f"{model}/{sampler}-10" for model in models]
        values = [2.0 + shift, 3.0 + shift, 4.0 + 1.1 * shift]
        return with_results(grid, dict(zip(names, values, strict=True)), error=0.01)

    sscs, em = results("sscs", 0.0), results("em", 0.5)
    assert em.minus(sscs).p_value < 0.01
    assert em.interval.half_width > 1


def test_seeds_of_an_inpainted_cell_share_its_images(grid):
    """More samples of the same images do not halve the variance, nor extrapolate, nor decide."""
    names = ("psld/inpainted-10", "psld/inpainted-10-seed7")
    one, two = (with_results(grid, dict.fromkeys(names[:k], 2.0), error=0.1) for k in (1, 2))
    assert two.interval.half_width == pytest.approx(one.interval.half_width)
    assert two.extrapolated is None
    trainings = [f"{model}/inpainted-10" for model in ("psld", "psld-seed1", "psld-seed2")]
    entry = with_results(grid, dict.fromkeys(trainings, 2.5), error=0.05)
    entry = against(entry, paper=2.05, band=0.5)
    assert (entry.status, entry.needs, entry.more_samples) == ("undecided", "trainings", None)


def test_all_trainings_weigh_the_same_while_some_seeds_are_missing(grid, tmp_path):
    """Else two samplers that are equal in each training would differ by what has been run."""
    values = {"psld": 2.0, "psld-seed1": 2.5}
    runs = {
        "em": ("psld/em-10", "psld/em-10-seed7", "psld-seed1/em-10"),
        "sscs": ("psld/sscs-10", "psld-seed1/sscs-10", "psld-seed1/sscs-10-seed7"),
    }
    for name in (name for names in runs.values() for name in names):
        write_result(tmp_path, grid, name, value=values[name.split("/")[0]], error=0.01)

    def measured(table: str) -> Entry:
        return read_table(grid, table, tmp_path)[0][0]

    em, sscs = measured("mine-all"), measured("mine-samplers")
    assert em.values == sscs.values == [2.0, 2.5]
    assert em.minus(sscs).value == 0
    (tmp_path / grid.cells["psld-seed1/em-10"].result).unlink()
    write_result(tmp_path, grid, "psld-seed1/em-10-seed7", value=2.5, error=0.01)
    write_result(tmp_path, grid, "psld/em-10", value=2.0, error=0.01)
    (tmp_path / grid.cells["psld/em-10-seed7"].result).unlink()
    assert measured("mine-all").values == [2.0], "no seed is common"
    write_result(tmp_path, grid, "psld-seed2/em-10-seed7", value=2.2, error=0.01)
    assert measured("mine-all").values == [2.5, 2.2], "the seed that most trainings have"
