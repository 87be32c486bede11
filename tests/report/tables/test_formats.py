"""The formats of a table hold the same entries, and all texts of it."""

import contextlib
import csv
import html
import re

import pytest

from psld.config.locations import CONFIGS
from psld.grid.entries import read_table
from psld.grid.loading import load_grid
from psld.grid.tables import RECORDED
from psld.report.formats import latex, markdown
from psld.report.html import table_page
from psld.report.table import EVERY_ENTRY, Text, text_of
from tests.report.tables.conftest import (
    GRID,
    PRINTED,
    body_of_html,
    body_of_latex,
    body_of_markdown,
    tabulate,
    unescaped,
)


def test_all_formats_hold_the_same_entries(folder):
    text = tabulate(folder)
    assert sorted(text) == ["csv", "html", "md", "tex"]
    assert body_of_markdown(text["md"].partition("####")[0]) == PRINTED
    assert body_of_html(text["html"].partition("<details>")[0]) == PRINTED
    assert body_of_latex(text["tex"].partition("longtable}{")[0]) == PRINTED


def test_all_formats_say_what_each_entry_took(folder):
    text = tabulate(folder)
    assert all(EVERY_ENTRY in text[ending] for ending in ("md", "html", "tex"))
    details = body_of_markdown(text["md"].partition(EVERY_ENTRY)[2])
    assert details == body_of_html(text["html"].partition("<details>")[2])
    assert details == body_of_latex(text["tex"].partition("longtable}{")[2])
    ours = ["EM", "CLD", "10", "2.06", "2.04 to 2.08", "2.06", "–"]
    assert details[0] == [*ours, "2.00", "+0.06", "reproduced", "–", "100", "10", "1.5", "CPU"]
    missing = ["EM", "PSLD #1_a", "20", *"––––", "3.00", "–", "not run", "–"]
    assert details[5] == [*missing, "100", "–", "–", "–"]
    records = list(csv.DictReader(text["csv"].splitlines()))
    ours = [record for record in records if record["status"] != "literature"]
    assert len(details) == len(ours) == 9
    for line, record in zip(details, ours, strict=True):
        assert [line[9], line[11]] == [record["status"], record["samples"]]
        for shown, known in zip(
            line[12:14], (record["nfe"], record["sampling_seconds"]), strict=True
        ):
            assert (shown == "–") if known == "" else float(shown) == float(known)
        assert line[14] == (record["sampling_device"] or "–")


def test_the_page_marks_entries_by_more_than_color(folder):
    page = tabulate(folder)["html"]
    assert '<td class="reproduced">2.06 ± 0.02<i> ★</i> <small>(2.00, +0.06 ✓)</small></td>' in page
    assert '<td class="off">7.25 ± 0.21 <small>(9.00, -1.75 ✗)</small></td>' in page
    assert '<td class="not-run">– <small>(3.00)</small></td>' in page
    assert '<td class="literature">3.17†</td>' in page


def test_csv_holds_what_is_known_of_each_entry(folder):
    records = list(csv.DictReader(tabulate(folder)["csv"].splitlines()))
    assert tuple(records[0]) == (*GRID["tables"]["mine"]["headings"], *RECORDED)
    printed = [cell for row in PRINTED for cell in row[2:]]
    assert len(records) == len(printed) == 12
    for record, text in zip(records, printed, strict=True):
        digits = 0 if record["shows"] == "nfe" else 2
        shown = record["paper"] if record["status"] == "literature" else record["ours"]
        assert text.startswith(f"{float(shown):.{digits}f}" if shown else "–")
        if record["paper"]:
            assert f"{float(record['paper']):.{digits}f}" in text
        if record["status"] in ("literature", "not run"):
            assert record["ours"] == ""
    assert [record["status"] for record in records] == [
        *("reproduced", "reproduced", "measured"),
        *("off", "reproduced", "not run"),
        *("not run", "not run", "measured"),
        *("literature", "literature", "literature"),
    ]
    assert float(records[0]["difference"]) == pytest.approx(0.0625)
    ends = [float(records[0][end]) for end in ("low", "high")]
    assert ends == pytest.approx([2.0625 - 2.093 * 0.01, 2.0625 + 2.093 * 0.01], abs=1e-5)
    assert float(records[0]["extrapolated"]) == pytest.approx(2.0625)
    ranks = {place: record["rank"] for place, record in enumerate(records) if record["rank"]}
    assert ranks == {0: "best", 2: "best", 3: "worse", 8: "worse"}
    assert (records[3]["paired"], records[8]["paired"]) == ("True", "False")
    assert max(float(records[place]["p_value"]) for place in (3, 8)) < 1e-6
    assert (records[0]["samples"], records[0]["nfe"], records[0]["source"]) == ("100", "10.0", "V")


@pytest.mark.parametrize("ending", ["md", "html", "tex"])
def test_title_caption_and_notes_are_printed(folder, ending):
    text = tabulate(folder)[ending]
    if ending == "tex":
        text = unescaped(text)
    if ending == "html":
        text = html.unescape(text)
    if ending == "md":
        text = text.replace(r"\<", "<")
    for part in (
        "Mine: 50% & <more>",
        "A caption_with an underscore.",
        "A note of the paper's.",
        "standard normal noise has 98.8, the test split 0.32",
        "test accuracy is 0.987",
        "3 of 12 entries have not been run (–).",
        "✓ within 0.1 or 5% of the paper's value",
        "± half of the 95 % interval, which covers other samples of the same weights",
        "paired by samples if both draw the same noise (sampler, sampling seeds, and number of ",
        "Chosen for this test.",
    ):
        assert part in text


def test_what_latex_and_html_would_read_as_commands_is_escaped(folder):
    text = tabulate(folder)
    _, _, commands = text["tex"].partition("\n")  # the first line is a comment
    assert not re.search(r"(?<!\\)[%#_]", commands)
    assert "<more>" not in text["html"]
    assert "&lt;more&gt;" in text["html"]


def test_an_empty_list_of_entries_is_left_out(grid, folder):
    """A table may have results of other papers only."""
    rows = read_table(grid, "mine", folder / "results/cells/mine")
    text = text_of(grid.file.tables["mine"], rows[-1:])
    for page in (markdown(text), latex(text), table_page(text)):
        assert "3.17" in page
        assert EVERY_ENTRY not in page


def test_html_fetches_nothing(folder):
    page = tabulate(folder)["html"]
    assert not re.search(r"<script|<link|<img|<iframe|@import|url\(|https?://", page)


@pytest.mark.parametrize("name", ["demo", "paper"])
def test_latex_knows_every_symbol_of_a_grid(name, tmp_path):
    """Only letters that LaTeX's usual fonts have: ASCII, Latin-1 and the dash."""
    with contextlib.chdir(CONFIGS.parent):
        real = load_grid(name)
    for table_name, table in real.file.tables.items():
        text: Text = text_of(table, read_table(real, table_name, tmp_path))
        unknown = {c for c in latex(text) if ord(c) > 255} - set("–—…’")
        assert not unknown, table_name
