"""Tables, plots and pages of cells with several seeds."""

import re
from dataclasses import replace
from statistics import stdev

import numpy as np

from psld.grid.rows import read_table
from psld.report.page import results_page
from psld.report.plots import draw_plot
from psld.report.table import table_text
from tests.grid.test_entries import against, folder, grid, rows, with_weights  # noqa: F401
from tests.results import IMPORTED

# ruff: noqa: F811 — fixtures are arguments of the same name


def test_a_table_shows_mean_interval_deviation_and_the_number_of_seeds(grid, rows, tmp_path):
    """± is half of the 95 % interval, with one seed and with several seeds."""
    text = table_text(grid.file.tables["mine-all"], rows)
    assert text.columns == ["model", "seeds", "10", "20"]
    [first, _], [official, _] = rows
    deviation = stdev([2.05, 2.55, 2.25])  # of means over sampling seeds
    psld = f"2.28 ± {first.interval.half_width:.2f}, SD {deviation:.2f}, min 2.00 ★"
    assert text.lines == [
        ["PSLD", "1 of 6, 6", psld, "1.00 ± 0.10"],
        ["official", "0 of 2, 2", f"2.50 ± {official.interval.half_width:.2f}, min 2.40 ≈", "–"],
    ]
    missing = table_text(grid.file.tables["mine-all"], read_table(grid, "mine-all", tmp_path))
    assert [line[1] for line in missing.lines] == ["0 of 6", "0 of 2"]


def test_undecided_entries_are_counted_by_remedy(grid, rows):
    first, official = (against(row[0], paper=2.05, band=0.5) for row in rows)
    notes = table_text(grid.file.tables["mine-all"], [[first], [official]]).notes
    said = r"2 of 2 entries are undecided \(\?\); up to [\d,]+ more samples \(further seeds\) can "
    assert re.fullmatch(f"{said}decide 1; only more trainings can decide 1\\.", notes[-1])


def test_a_plot_has_the_mean_with_its_interval(grid, folder, rows, monkeypatch):
    monkeypatch.chdir(folder)
    [axes] = [axes for axes in draw_plot(grid, "nfe").axes if axes.get_title()]
    lines = {line.get_label(): line.get_xydata().tolist() for line in axes.get_lines()}
    [first, _] = rows[0]
    assert np.allclose(lines["psld"], [[10, first.value], [20, 1.0]])
    bars = [segment for bars in axes.collections for segment in bars.get_segments()]
    ends = [[10, first.interval.low], [10, first.interval.high]]
    assert any(np.allclose(bar, ends) for bar in bars)


def test_only_imported_weights_have_the_mark_of_imported_weights(grid, rows):
    """The manifest records the imported file; the grid may name any file."""
    official = rows[1][0]
    trained = replace(official, by_cell=with_weights(official, imported=None))
    compared = ((official, 2.4), (official, 9.0), (trained, 2.4))
    entries = [against(entry, paper) for entry, paper in compared]
    text = table_text(grid.file.tables["mine-all"], [[entry] for entry in entries])
    marks = [line[2].rpartition(" ")[2] for line in text.lines]
    assert marks == ["✓²)", "✗²)", "✓¹)"]
    assert f"not trained here: official.ckpt (SHA-256 {IMPORTED.sha256})" in " ".join(text.notes)
    assert text.marks[0] == ["agrees for imported weights"]
    three = against(rows[0][0], paper=2.2, band=9)
    last = list(three.by_cell)[-1]
    with_one = three.by_cell | {last: with_weights(three, imported=IMPORTED)[last]}
    assert replace(three, by_cell=with_one).status == "agrees for imported weights"


def test_a_verdict_states_missing_seeds(grid, rows):
    """Otherwise an unwanted training could be left out unnoticed."""
    three = against(rows[0][0], paper=2.2, band=9)
    most = dict(list(three.by_cell.items())[:5])
    entries = [three, replace(three, by_cell=most)]
    text = table_text(grid.file.tables["mine-all"], [[entry] for entry in entries])
    assert [line[2].rpartition("+")[2] for line in text.lines] == [
        "0.08 ✓)",
        "0.08 ✓, 5 of 6 seeds)",
    ]


def test_the_page_counts_seeds_and_lists_the_budget_of_a_figure(grid):
    page = results_page(grid)
    assert "em (10, 20, 30)" in page
    assert "<span>3 of training;</span> <span>2 of sampling</span>" in page
