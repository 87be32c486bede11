"""The entries of tables: means over seeds, intervals, differences and verdicts."""

import csv
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
import pytest
from scipy.stats import t

from psld.evaluation.results import CellResult
from psld.grid.cells import Cell, Grid
from psld.grid.entries import Entry, Rank
from psld.grid.rows import all_entries, as_csv, read_table
from psld.grid.rows import ranked as with_ranks
from psld.grid.tables import RECORDED, Band
from psld.metrics.settings import MemorizationSettings, PrecisionSettings
from psld.utils.files import digest_of
from tests.grid.mine import SEEDED, grid_in, write_grid
from tests.results import cell_result, write_result

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
        grid = write_grid(folder, SEEDED)
        for cell, value in VALUES.items():
            write_result(folder, grid, cell, value=value, error=0.05)

    return once("seeded", fill)


@pytest.fixture(scope="module")
def grid(folder) -> Grid:
    return grid_in(folder)


@pytest.fixture(scope="module")
def rows(grid, folder):
    return read_table(grid, "mine-all", folder)


def test_interval_of_several_trainings_includes_their_spread(rows):
    trainings = [2.05, 2.55, 2.25]  # means over sampling seeds
    drawn = t.ppf(0.975, 39) * 0.05 / 2**0.5  # the blocks of two sampling seeds
    margin = np.hypot(t.ppf(0.975, 2) * stdev(trainings) / 3**0.5, drawn)
    [three, _], [official, _] = rows
    ends = [fmean(trainings) - margin, fmean(trainings) + margin]
    assert three.interval[1:] == pytest.approx(ends, rel=1e-3)
    # One training: the blocks of both sampling seeds together.
    assert official.interval.half_width < 2.1 * 0.05


def against(entry: Entry, paper: float, band: float = 1.0) -> Entry:
    """Return the entry with a paper value and a band of this width."""
    band_of_test = Band(absolute=band, relative=0.0, reason="A test.")
    return replace(entry, paper=paper, band=band_of_test)


def test_entry_undecided_by_its_trainings_needs_more_trainings(grid, rows):
    """More samples do not reduce the spread over trainings, which imported weights do not have."""
    first, official = (against(row[0], paper=2.05, band=0.5) for row in rows)
    assert (first.status, first.needs, first.more_samples) == ("undecided", "trainings", None)
    assert (official.status, official.needs) == ("undecided", "samples")
    at_the_end = against(official, paper=2.0, band=0.5)
    assert (at_the_end.status, at_the_end.needs) == ("undecided", None)
    assert at_the_end.more_samples is None
    zero = against(first, paper=0.0, band=0.5)
    assert (zero.width, zero.status) == (0.5, "off")


def test_fewer_than_three_trainings_give_a_verdict_for_their_weights_only(grid, rows):
    """Three trainings give a general verdict, unless their weights are equal."""
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
    """Return the results of an entry with changed fields of the model, such as its weights."""
    results = entry.by_cell.items()
    return {
        c: r.model_copy(update={"model": r.model.model_copy(update=fields)}) for c, r in results
    }


def with_results(grid: Grid, results: dict[str, float], error: float, **fields: Any) -> Entry:
    """Return an entry with results of these cells."""
    made = {
        grid.cells[name]: cell_result(grid, name, value=value, error=error, **fields)
        for name, value in results.items()
    }
    return replace(all_entries(grid)["mine-all"][0][0], by_cell=made)


def test_entries_with_the_same_noise_are_paired(grid):
    """The sampler does not matter, because all samplers start with the same noise. The noise of a
    shard is one array, so the noise of sample i depends on the shard size.
    """

    def is_paired(name: str, **fields: Any) -> bool:
        psld, other = (with_results(grid, {n: 2.0}, error=0.1) for n in ("psld/em-10", name))
        [cell] = other.by_cell
        made = cell_result(grid, name, value=2.1, error=0.1, samples=fields.pop("samples", None))
        cell = replace(cell, options=cell.options.model_copy(update=fields))
        return psld.minus(replace(other, by_cell={cell: made})).paired

    assert is_paired("official/em-10")
    assert is_paired("psld/sscs-10")
    assert not is_paired("vp-sde/em-10"), "different blocks of variables"
    assert not is_paired("psld/em-10-seed7")
    assert not is_paired("psld/em-10", shard_size=50)
    assert not is_paired("psld/em-10", samples=50), "different blocks of the jackknife"


def test_samplers_of_the_same_trainings_are_paired(grid):
    """The spread over trainings is large, but the spread of the differences is small. A factor of
    an entry multiplies its errors.
    """
    models = ("psld", "psld-seed1", "psld-seed2")

    def results(sampler: str, shift: float) -> Entry:
        names = [f"{model}/{sampler}-10" for model in models]
        values = [2.0 + shift, 3.0 + shift, 4.0 + 1.1 * shift]
        return with_results(grid, dict(zip(names, values, strict=True)), error=0.01)

    sscs, em = results("sscs", 0.0), results("em", 0.5)
    assert em.minus(sscs).p_value < 0.01
    assert em.interval.half_width > 1
    difference = em.minus(sscs, 2.0)
    assert difference.value == pytest.approx(em.value - 2 * 3.0)
    _, (again, _) = difference.errors
    spread = [a - 2 * b for a, b in zip(em.values, sscs.values, strict=True)]
    assert again == pytest.approx(stdev(spread) / 3**0.5)

    def tuned(teachers: dict[Cell, str]) -> Entry:
        models = {
            cell: result.model.model_copy(
                update={
                    "weights_sha256": digest_of(f"tuned {cell.model.folder}"),
                    "init": {"model": "its teacher", "weights_sha256": teachers[cell]},
                }
            )
            for cell, result in em.by_cell.items()
        }
        results = {
            cell: result.model_copy(update={"model": models[cell]})
            for cell, result in em.by_cell.items()
        }
        return replace(em, by_cell=results)

    own = {cell: result.model.weights_sha256 for cell, result in em.by_cell.items()}
    assert tuned(own).minus(sscs).p_value < 0.01, "each is paired with its source"
    from_one, strangers = tuned(dict.fromkeys(own, "one")), tuned({c: c.name for c in own})
    assert from_one.minus(sscs).p_value > 0.1
    assert from_one.minus(sscs).errors == strangers.minus(sscs).errors, "three trainings each"


def test_seeds_of_an_inpainted_cell_share_its_images(grid):
    """More samples of the same images do not reduce the variance, extrapolate or decide."""
    names = ("psld/holes-10", "psld/holes-10-seed7")
    one, two = (with_results(grid, dict.fromkeys(names[:k], 2.0), error=0.1) for k in (1, 2))
    assert two.interval.half_width == pytest.approx(one.interval.half_width)
    assert two.extrapolated is None
    trainings = [f"{model}/holes-10" for model in ("psld", "psld-seed1", "psld-seed2")]
    entry = with_results(grid, dict.fromkeys(trainings, 2.5), error=0.05)
    entry = against(entry, paper=2.05, band=0.5)
    assert (entry.status, entry.needs, entry.more_samples) == ("undecided", "trainings", None)


def test_trainings_have_equal_weights_while_seeds_are_missing(grid, tmp_path):
    """Otherwise, samplers that are equal in each training would differ by missing seeds."""
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


def test_entry_describes_its_cells(rows):
    [three, one], [official, missing] = rows
    assert (three.samples, three.cell.name, three.label) == (100, "psld/em-10", "PSLD, 10")
    assert (three.trainings, one.trainings, missing.trainings) == (3, 1, None)
    assert list(three.by_training.values()) == pytest.approx([2.05, 2.55, 2.25])
    assert three.deviation == pytest.approx(stdev([2.05, 2.55, 2.25]))
    assert [each.minimum for each in (three, one, official)] == [2.0, None, 2.4]
    assert one.deviation is None
    assert [entry.missing_seeds for entry in (three, one, official, missing)] == [0, 5, 0, 2]
    assert [entry.scope for entry in (three, one, official)] == [
        *("training", "these weights", "imported weights"),
    ]
    assert (three.nfe, missing.nfe, missing.value, missing.interval) == (10, None, None, None)
    assert (missing.status, three.status) == ("not run", "measured"), "the paper has no number"


def test_number_of_samples_that_would_decide_counts_all_seeds(grid):
    """With half-width w at distance δ from an end of the band, n · (w / δ)² · 1.654² decide."""
    names = ("official/em-10", "official/em-10-seed7")
    two = with_results(grid, dict.fromkeys(names, 2.0), error=0.1)
    near = against(two, paper=2.0, band=0.1)
    needed = 200 * (near.interval.half_width / 0.1 * (1.96 + 1.2816) / 1.96) ** 2
    assert near.more_samples == pytest.approx(needed - 200, abs=3)
    decided = against(two, paper=2.0, band=1.0)
    assert (decided.status, decided.more_samples) == ("agrees for imported weights", 0)
    assert two.more_samples is None, "the paper has no number"


def test_band_is_the_wider_of_two_and_only_relative_for_nfe(grid):
    band = Band(absolute=0.5, relative=0.1, reason="A test.")
    assert [band.width(paper, "value") for paper in (2.0, -10.0)] == [0.5, 1.0]
    assert [band.width(paper, "nfe") for paper in (2.0, 10.0)] == pytest.approx([0.2, 1.0])
    end = against(with_results(grid, {"psld/em-10": 2.1}, error=0.0), paper=2.0, band=0.1)
    assert end.status == "agrees for these weights", "2.1 − 2.0 is more than 0.1 as a float"
    entry = with_results(grid, {"psld/em-10": 2.0}, error=0.1)
    counted = replace(entry, shown=entry.shown.model_copy(update={"show": "nfe"}))
    counted = replace(counted, paper=10.0, band=band)
    assert (counted.width, counted.status) == (None, "measured"), "steps are a setting"
    [(cell, result)] = entry.by_cell.items()
    adaptive = {cell: result.model_copy(update={"sampler": {"tolerance": 1e-3}})}
    counted = replace(counted, by_cell=adaptive)
    assert (counted.width, counted.status) == (1.0, "agrees for these weights")
    assert (counted.drawn, counted.interval, counted.difference) == (None, None, 0)
    assert counted.extrapolated is None


def test_extrapolation_includes_the_error_of_retraining(rows):
    three, one = rows[0]
    drawn, again = three.drawn.extrapolated, three.trained.interval
    assert three.extrapolated.value == pytest.approx(drawn.value)
    width = np.hypot(drawn.half_width, again.half_width)
    assert three.extrapolated.half_width == pytest.approx(width)
    assert one.extrapolated == one.drawn.extrapolated


def test_entry_ignores_results_with_another_digest(grid, folder, tmp_path):
    write_result(tmp_path, grid, "psld/em-20", value=9.0, record="0" * 64)
    entry = read_table(grid, "mine-all", tmp_path)[0][1]
    assert (entry.value, entry.others) == (None, (grid.cells["psld/em-20"].result,))
    assert read_table(grid, "mine-all", folder)[0][1].others == ()


# --- ranks ----------------------------------------------------------------------------------------


def ranked(grid: Grid, values: dict[str, float], **changes: Any) -> list[Rank | None]:
    """Return the ranks of the entries of a column, with one entry for each cell."""
    column = [with_results(grid, {name: value}, error=0.05) for name, value in values.items()]
    for place, entry in enumerate(column):
        [cell] = entry.by_cell
        measurement = entry.measurement
        metric = measurement.metric.model_copy(update=changes)
        measurement = measurement.model_copy(update={"metric": metric})
        column[place] = replace(entry, cells=(cell,), measurement=measurement)
    return [entry.rank for entry in with_ranks(column)]


def test_entry_without_significant_difference_from_the_best_is_perhaps_best(grid):
    """Each p-value is multiplied by the number of comparisons."""
    values = {"psld/em-10": 2.0, "vp-sde/em-10": 2.15, "psld/em-10-seed7": 2.9}
    best, near, far = ranked(grid, values)
    assert best == Rank("best")
    _, alone = ranked(grid, dict(list(values.items())[:2]))
    assert near.p_value == pytest.approx(2 * alone.p_value)
    assert (alone.name, near.name, far.name) == ("not best", "perhaps best", "not best")
    assert (near.paired, far.paired) == (False, False)
    assert ranked(grid, {"psld/em-10": 2.0}) == [None], "nothing to compare with"
    assert ranked(grid, dict.fromkeys(values, 2.0))[1].p_value == 1


def test_best_is_the_smallest_or_largest_except_for_memorization(grid):
    values = {"psld/em-10": 2.0, "psld/sscs-10": 9.0}
    assert [rank.name for rank in ranked(grid, values)] == ["best", "not best"]
    shares = {"measure": PrecisionSettings(), "better": "larger"}
    assert [rank.name for rank in ranked(grid, values, **shares)] == ["not best", "best"]
    memorized = {"measure": MemorizationSettings(), "better": None}
    assert ranked(grid, values, **memorized) == [None, None]


def test_best_is_the_nearest_to_the_floor(grid):
    """The floor is 0.321. Values above and below the floor are compared by their distance from the
    floor."""
    values = {"psld/em-10": 2.0, "psld/sscs-10": 0.3, "vp-sde/em-10": 0.36}
    ranks = ranked(grid, values, better="floor")
    assert [rank.name for rank in ranks] == ["not best", "best", "perhaps best"]
    [_, _, across] = ranked(grid, values | {"vp-sde/em-10": 0.642 - 0.3}, better="floor")
    assert across.p_value == 1, "equally far"


def test_ranks_need_equal_datasets_metrics_and_numbers_of_samples(grid, rows):
    """Numbers of network evaluations have no ranks."""
    a = with_results(grid, {"psld/em-10": 2.0}, error=0.05)
    fewer = a.measurement.model_copy(update={"samples": 50})
    assert [e.rank for e in with_ranks([a, replace(a, measurement=fewer)])] == [None, None]
    counted = replace(a, shown=a.shown.model_copy(update={"show": "nfe"}))
    assert [e.rank for e in with_ranks([a, counted])] == [None, None]


def test_csv_has_all_fields_of_each_entry(grid, rows):
    table = grid.file.tables["mine-all"]
    three, one = rows[0]
    compared = [[against(three, paper=2.0), one], rows[1]]
    first, _, _, missing = csv.DictReader(as_csv(table, compared).splitlines())
    assert tuple(first) == ("model", *RECORDED)
    assert first["cell"] == "mine/psld/em-10"
    assert float(first["ours"]) == pytest.approx(three.value)
    ends = [float(first[f"extrapolated{end}"]) for end in ("", "_low", "_high")]
    assert ends == pytest.approx([*three.extrapolated])
    assert float(first["difference"]) == pytest.approx(three.value - 2.0)
    assert float(first["sampling_seconds"]) == 6 * 1.5
    assert [first[key] for key in ("rank", "paired", "seeds", "band")] == ["best", "", "6", "1.0"]
    assert [first[key] for key in ("metric", "shows", "nfe")] == ["fd-classifier", "value", "10.0"]
    assert (first["sampling_device"], first["samples"], first["trainings"]) == ("CPU", "100", "3")
    assert (missing["ours"], missing["sampling_seconds"], missing["status"]) == ("", "", "not run")
