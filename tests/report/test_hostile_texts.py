"""A grid whose free texts are all hostile: every format shows them as they are written."""

import csv
import io
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest

from psld.grid.cells import Grid
from psld.grid.rows import as_csv, read_table
from psld.report.page import results_page
from psld.report.table import TableText, latex, markdown, table_text
from tests.report.conftest import GRID, Page
from tests.results import write_grid, write_result

EVIL = (
    """<script>alert(1)</script> "><img src=x onerror='a'> & | \\ $x$ 50% a_b *c* #{}~^ <!-- ]]>"""
)


def evil(place: str) -> str:
    """The hostile text of one place; it begins as the options of LaTeX's row ends do."""
    return f"[{place}] {EVIL}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("hostile")


@pytest.fixture(scope="module")
def grid(folder) -> Grid:
    content = deepcopy(GRID) | {"title": evil("title"), "question": evil("question")}
    table = content["tables"]["mine"]
    table |= {"title": evil("table"), "caption": evil("caption"), "headings": [evil("heading")]}
    table["footnotes"] = [evil("note"), "two\n\nparagraphs"]
    table["rows"][0] |= {"label": [evil("row")]}
    table["columns"][0]["label"] = evil("column")
    grid = write_grid(folder, content)
    write_result(folder, grid, "low/em-20", value=3.0, sampling_device=evil("device"))
    return grid


@pytest.fixture(scope="module")
def rows(folder, grid) -> list:
    return read_table(grid, "mine", folder)


@pytest.fixture(scope="module")
def text(grid, rows) -> TableText:
    return table_text(grid.file.tables["mine"], rows)


def test_no_element_of_the_page_comes_from_a_text(folder, grid, tmp_path, monkeypatch):
    monkeypatch.chdir(folder)
    page = Page(results_page(grid))
    content = deepcopy(GRID) | {"title": "a", "question": "b"}
    content["tables"]["mine"] |= {"caption": "c"}
    harmless = write_grid(tmp_path, content)
    write_result(tmp_path, harmless, "low/em-20", value=3.0)
    monkeypatch.chdir(tmp_path)
    plain = Page(results_page(harmless))
    names = [{(tag, *attributes) for tag, attributes in each.tags} for each in (page, plain)]
    assert names[0] == names[1], "an element or an attribute came from a text"
    places = ("title", "question", "table", "caption", "heading", "note", "row", "column", "device")
    for place in places:
        assert evil(place) in page.text


def test_markdown_keeps_its_columns_and_has_no_elements(text):
    lines = markdown(text).splitlines()
    for line in (line for line in lines if line.startswith("|")):
        bars = line.replace(r"\|", "").count("|")
        assert bars - 1 == len(text.columns)
    assert not any("<script" in line.replace(r"\<", "") for line in lines)
    assert not any("<img" in line.replace(r"\<", "") for line in lines)
    assert "two paragraphs" in lines


@pytest.mark.parametrize("before", ["", "\\", "\\\\"])
@pytest.mark.parametrize("link", ["[x](javascript:alert(1))", "[x][y]", "[x]: javascript:a"])
def test_markdown_has_no_links(link, before):
    shown = markdown(TableText(link.replace("]", f"{before}]", 1), ["a"], [["b"]]))
    assert shown.startswith("### [x\\]"), "an escaped bracket ends no link"


def test_latex_escapes_its_special_characters(text):
    """Each row ends at the end of the table's row; no special character stands alone."""
    content = latex(text)
    body = content[content.index(r"\midrule") :][: content.index(r"\bottomrule")]
    first = body.splitlines()[1]
    assert first.startswith("{[}row]")
    assert first.replace(r"\&", "").count("&") == len(text.columns) - 1
    assert r"\textbackslash{}" in first
    for character in "%#_":
        assert first.count(character) == first.count(f"\\{character}") > 0
    assert "two paragraphs" in content


def test_csv_reads_back(grid, rows):
    [first, *_] = csv.DictReader(io.StringIO(as_csv(grid.file.tables["mine"], rows)))
    assert first[evil("heading")] == evil("row")
    assert first["column"] == evil("column")


@pytest.mark.parametrize("label", ["=1+1", "+1", "-1+1", "@SUM(1)", "\t=1"])
def test_a_spreadsheet_runs_no_text_of_a_csv(grid, rows, label):
    row = rows[0][0].row.model_copy(update={"label": (label,)})
    table = grid.file.tables["mine"]
    [first] = csv.reader(as_csv(table, [[replace(rows[0][0], row=row)]]).splitlines()[1:])
    assert first[0] == f"'{label}"
