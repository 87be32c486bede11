"""Claims are printed below the tables and are on the page."""

import html

from psld.report.page import results_page
from tests.commands import call, succeeded
from tests.grid.test_claims import folder, grid  # noqa: F401

# ruff: noqa: F811 — fixtures are arguments of the same name


def test_claims_are_printed_and_stand_on_the_page(grid, folder, monkeypatch):
    monkeypatch.chdir(folder)
    texts = succeeded(call(folder, "tabulate", "grid_name=mine")).stdout, results_page(grid)
    for text in texts:
        plain = html.unescape(text).replace("\\<", "<")
        assert "PSLD is better than <CLD>" in plain
        assert "3 agrees, 1 contradicts, 1 cannot tell, 1 not run" in plain
        assert "contradicts for these weights" in plain
    lines = ([c.strip() for c in line.strip("|").split("|")] for line in texts[0].splitlines())
    cells, counted, alone = [cells for cells in lines if cells[-1].startswith("agrees")]
    assert cells[2].startswith("-1.00 ± ")
    assert [cells[1], cells[3], *cells[5:]] == ["10", "-0.50", "100", "3", "agrees"]
    assert counted[2].startswith("-3 ± 2")
    assert alone[2:5] == ["-3", "–", "–"]
    assert alone[-1] == "agrees for these weights"
