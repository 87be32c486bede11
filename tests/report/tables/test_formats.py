"""The formats of a table hold the same entries, and all of its texts."""

import html
from dataclasses import replace

import pytest

from psld.grid.rows import read_table
from psld.grid.schema import RECORDED
from psld.report import table as formats
from psld.report.page import results_page
from psld.report.table import limit_text, our_text, table_text
from tests.report.conftest import Page
from tests.report.tables.conftest import (
    GRID,
    MEASURED,
    PRINTED,
    body_of_latex,
    body_of_markdown,
    records,
    tabulate,
    unescaped,
)
from tests.results import cell_result, made_with, write_result


def test_all_formats_hold_the_same_entries(folder):
    text = tabulate(folder)
    assert sorted(text) == ["csv", "html", "md", "tex"]
    assert body_of_markdown(text["md"]) == PRINTED
    assert Page(text["html"]).tables[0][1:] == PRINTED
    assert body_of_latex(text["tex"]) == PRINTED


def test_the_page_marks_entries_by_more_than_color(folder):
    page = tabulate(folder)["html"]
    agrees = "agrees-for-these-weights", "2.06 ± 0.02<i> ★</i> <small>(2.00, +0.06 ✓¹)</small>"
    differs = "differs-for-these-weights", "7.25 ± 0.21 <small>(9.00, -1.75 ✗¹)</small>"
    for status, text in (agrees, differs):
        assert f'<td class="{status}">{text}</td>' in page
    assert '<td class="not-run">– <small>(3.00)</small></td>' in page
    assert '<td class="literature">3.17†</td>' in page


def test_a_start_from_the_training_images_is_said(folder, grid):
    for cell, components in (("cld/em-20", 4), ("psld/sscs-20", 32)):
        value, error = MEASURED[cell]
        made = made_with(grid, cell)
        made["sampler"]["start"], made["gaussians"] = "mixture", components
        write_result(folder, grid, cell, value=value, error=error, **made)
    note = "Starts from 4 to 32 Gaussians of the training images: em, sscs."
    assert note in tabulate(folder)["md"]


def test_a_model_that_started_from_another_is_said_on_table_and_page(folder, grid):
    for cell in ("psld/em-10", "psld/sscs-20"):
        made, (value, error) = made_with(grid, cell), MEASURED[cell]
        made["model"] |= {"init": {"model": "mine/base", "weights_sha256": "1" * 64}, "step": 9}
        write_result(folder, grid, cell, value=value, error=error, **made)
    note = "Trained from the weights of other models: psld from mine/base."
    assert note in tabulate(folder)["md"]
    page = results_page(grid)
    assert note in page
    assert "<td>9 from mine/base</td>" in page


def test_weights_that_no_command_trained_are_said(folder, grid):
    made, (value, error) = made_with(grid, "psld/em-10"), MEASURED["psld/em-10"]
    made["model"] |= {"saved": True}
    write_result(folder, grid, "psld/em-10", value=value, error=error, **made)
    note = "Saved from Python (psld.save), not trained by a command: psld."
    assert note in tabulate(folder)["md"]
    assert note in results_page(grid)


def test_csv_holds_what_is_known_of_each_entry(folder):
    lines = records(folder)
    assert tuple(lines[0]) == (*GRID["tables"]["mine"]["headings"], *RECORDED)
    for line, text in zip(lines, [cell for row in PRINTED for cell in row[2:]], strict=True):
        digits = 0 if line["shows"] == "nfe" else 2
        shown = line["paper"] if line["status"] == "literature" else line["ours"]
        assert text.startswith(f"{float(shown):.{digits}f}" if shown else "–")
        if line["paper"]:
            assert f"{float(line['paper']):.{digits}f}" in text
        if line["status"] in ("literature", "not run"):
            assert line["ours"] == ""
    assert [line["status"] for line in lines] == [
        *("agrees for these weights", "measured", "measured"),
        *("differs for these weights", "measured", "not run"),
        *("not run", "not run", "measured"),
        *("literature", "literature", "literature"),
    ]
    first = lines[0]
    assert float(first["difference"]) == pytest.approx(0.0625)
    ends = [float(first[end]) for end in ("low", "high")]
    assert ends == pytest.approx([2.0625 - 2.093 * 0.01, 2.0625 + 2.093 * 0.01], abs=1e-5)
    names = ("extrapolated", "extrapolated_low", "extrapolated_high")
    assert [float(first[name]) for name in names] == pytest.approx([2.0625, *ends])
    assert (first["samples"], first["nfe"], first["source"]) == ("100", "10.0", "V")
    ranks = {place: line["rank"] for place, line in enumerate(lines) if line["rank"]}
    assert ranks == {0: "best", 2: "best", 3: "not best", 8: "not best"}
    assert (lines[3]["paired"], lines[8]["paired"]) == ("True", "True")
    assert max(float(lines[place]["p_value"]) for place in (3, 8)) < 1e-6


@pytest.mark.parametrize("ending", ["md", "html", "tex"])
def test_title_caption_and_notes_are_printed(folder, ending):
    text = tabulate(folder)[ending]
    decode = {"md": lambda text: text.replace(r"\<", "<"), "html": html.unescape, "tex": unescaped}
    for part in (
        "Mine: 50% & <more>",
        "A caption_with an underscore.",
        "A note of the paper's.",
        "standard normal noise has 98.8, the test split 0.32",
        "test accuracy is 0.987",
        "3 of 12 entries have not been run (–).",
        "Band (✓ ✗): 0.1 or 5% of the paper's value",
        "Chosen for this test.",
        "Marks: docs/results.md",
    ):
        assert part in decode[ending](text)


@pytest.mark.parametrize("name", ["demo", "paper"])
def test_latex_knows_every_symbol_of_a_grid(name, grids, tmp_path):
    """Only letters that LaTeX's usual fonts have: ASCII, Latin-1 and the dash."""
    real = grids[name]
    for table_name, table in real.file.tables.items():
        text = table_text(table, read_table(real, table_name, tmp_path))
        unknown = {c for c in formats.latex(text) if ord(c) > 255} - set("–—…’")
        assert not unknown, table_name


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (2.0, 0.1, "2.00 ± 0.21"),
        (2.0, 0.001, "2.000 ± 0.002"),
        (2.0, 0.0049, "2.00 ± 0.01"),
        (0.0123, 0.00004, "0.01230 ± 0.00008"),
    ],
)
def test_an_error_is_never_printed_as_0(grid, value, error, text):
    """It is half of the 95 % interval: 2.093 standard errors of twenty blocks."""
    entry = read_table(grid, "mine")[0][2]
    result = cell_result(grid, entry.cell.name, value=value, error=error)
    assert our_text(replace(entry, by_cell={entry.cell: result})) == text


def test_distances_of_infinitely_many_samples_have_their_ends(grid, folder):
    text = limit_text(grid.file.tables["mine"], read_table(grid, "mine"))
    assert text.columns == ["sampler", "model", "10", "20"], "no column of counts"
    assert text.lines[0][2:] == ["2.06 (2.04 to 2.08)", "1.50 (1.48 to 1.52)"]
    assert text.lines[1][2:] == ["7.25 (7.04 to 7.46)", "–"]
    assert limit_text(grid.file.tables["mine"], read_table(grid, "mine", folder / "no")) is None
