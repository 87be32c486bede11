"""A grid in which all free texts are hostile; every format shows these texts literally."""

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
from tests.grid.mine import SHOWN, grid_in, written_once
from tests.report.conftest import Page
from tests.results import write_result

EVIL = (
    """<script>alert(1)</script> "><img src=x onerror='a'> & | \\ $x$ 50% a_b *c* #{}~^ <!-- ]]>"""
)


def evil(place: str) -> str:
    """Return the hostile text of one place, which begins like the options of a row end in LaTeX."""
    return f"[{place}] {EVIL}"


@pytest.fixture(scope="module")
def folder(once) -> Path:
    content = deepcopy(SHOWN) | {"title": evil("title"), "question": evil("question")}
    table = content["tables"]["mine"]
    table |= {"title": evil("table"), "caption": evil("caption")}
    table |= {"headings": [evil("heading"), "model"]}
    table["footnotes"] = [evil("note"), "two\n\nparagraphs"]
    for row in table["rows"]:
        row["label"][0] = evil("row")
    table["columns"][0]["label"] = evil("column")
    folder = written_once(once, "hostile", content)
    grid = grid_in(folder)
    write_result(folder, grid, "low/em-20", value=3.0, sampling_device=evil("device"))
    return folder


@pytest.fixture(scope="module")
def hostile(folder) -> Grid:
    return grid_in(folder)


@pytest.fixture(scope="module")
def rows(folder, hostile) -> list:
    return read_table(hostile, "mine", folder)


@pytest.fixture(scope="module")
def text(hostile, rows) -> TableText:
    return table_text(hostile.file.tables["mine"], rows)


def test_no_element_of_the_page_comes_from_a_text(folder, hostile, grid, tmp_path, monkeypatch):
    monkeypatch.chdir(folder)
    page = Page(results_page(hostile))
    write_result(tmp_path, grid, "low/em-20", value=3.0)
    monkeypatch.chdir(tmp_path)
    plain = Page(results_page(grid))
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


@pytest.mark.parametrize("link", ["[x](javascript:alert(1))", r"[x\][y]", r"[x\\]: javascript:a"])
def test_markdown_has_no_links(link):
    shown = markdown(TableText(link, ["a"], [["b"]]))
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


def test_csv_reads_back_and_a_spreadsheet_runs_no_text_of_it(hostile, rows):
    table = hostile.file.tables["mine"]
    [first, *_] = csv.DictReader(io.StringIO(as_csv(table, rows)))
    assert first[evil("heading")] == evil("row")
    assert first["column"] == evil("column")
    for label in ("=1+1", "+1", "-1+1", "@SUM(1)", "\t=1"):
        row = rows[0][0].row.model_copy(update={"label": (label, "CLD")})
        [first] = csv.reader(as_csv(table, [[replace(rows[0][0], row=row)]]).splitlines()[1:])
        assert first[0] == f"'{label}"
