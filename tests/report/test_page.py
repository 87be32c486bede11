"""The page of a grid's results: its content, accessibility, and that it is a single file."""

import base64
import html
import io
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from psld.grid import entries
from psld.grid.figures import all_figures
from psld.grid.rows import entries_in, read_table
from psld.metrics.estimate import pooled
from psld.report.page import MOST_PIXELS, results_page
from psld.report.table import table_text
from tests.browser import in_a_browser, shown
from tests.commands import call, succeeded
from tests.grid.mine import changed, grid_in, written_once
from tests.report.conftest import Page
from tests.results import made_with, write_result


def draw(folder: Path, name: str, pixels: np.ndarray | None = None) -> None:
    """Write a stand-in for a figure."""
    path = folder / "results/figures/mine" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros((60, 80), np.uint8) if pixels is None else pixels
    Image.fromarray(pixels).save(f"{path}.png")


@pytest.fixture
def content(folder, grid) -> str:
    """The page with all figures."""
    for name in all_figures(grid):
        draw(folder, name)
    return page_in(folder)


def page_in(folder: Path) -> str:
    succeeded(call(folder, "page", "grid_name=mine"))
    return (folder / "results/mine.html").read_text()


def test_the_page_has_the_tables_of_the_other_formats_and_shared_notes_once(content, grid):
    plain, tables = html.unescape(content), Page(content).tables
    for name, table in grid.file.tables.items():
        text = table_text(table, read_table(grid, name))
        assert [text.columns, *text.lines] in tables
        for part in (text.title, text.caption, *text.notes):
            assert part in plain
    legend = (
        "The interval covers other samples of",
        "mark a set of entries that contains the truly best entry",
        "† From other papers",
    )
    for note in (*legend, "Scale of fd-classifier"):
        assert plain.count(note) == 1
    assert "Marks: " not in content
    said = content.index(
        "Images of EM, VP-SDE, 20, from the prior (2.50 ± 0.02) are nearer to the "
    )
    assert said < content.index("<img") < content.index("<nav"), "the finding, then a picture"


def test_the_page_computes_each_estimate_at_most_twice(folder, grid, monkeypatch):
    """The notes appear once for the rank, and once for the entry with its rank."""
    calls = []
    monkeypatch.setattr(entries, "pooled", lambda *each: calls.append(1) or pooled(*each))
    results_page(grid)
    numbers = sum(bool(entry.cells) for entry in entries_in(grid))
    assert 0 < len(calls) <= 2 * numbers


def test_entries_farther_than_noise_are_listed(folder, grid):
    """This is checked on the page and in the tables. The distance of noise is 98.76; numbers of
    evaluations have no such reference value."""
    words = "Farther from the images than pure noise, because of too few training"
    assert words not in page_in(folder)
    write_result(folder, grid, "cld/em-10", value=98.8)
    write_result(folder, grid, "high/em-20", value=120.0)
    write_result(folder, grid, "cld/rk45-1e-2", value=5.5, nfe=300)
    note = f"{words} or sampling steps: EM CLD, 10; EM high, 20."
    assert note in page_in(folder)
    assert note in succeeded(call(folder, "tabulate", "grid_name=mine")).stdout


def test_without_a_paper_only_missing_entries_are_counted(folder, grid, monkeypatch):
    """Without numbers of a paper, the status `measured` has no information."""
    assert "measured" in page_in(folder)
    for entry in entries_in(grid):
        monkeypatch.setitem(entry.__dict__, "paper", None)
    content = results_page(grid)
    assert "entries have not been run (–)" in content
    assert ">measured<" not in content


def test_weights_that_serve_every_process_list_no_process(folder, grid):
    """A cell's results contain the process with which the weights were sampled."""
    for cell in ("cld/em-10", "cld/em-20", "cld/rk45-1e-2"):
        made = made_with(grid, cell)
        made["model"]["settings"]["training"]["objective"] = "denoiser"
        write_result(folder, grid, cell, value=8.5, **made)
    lines = [line for table in Page(page_in(folder)).tables for line in table]
    settings = {line[0]: json.loads(line[-1]) for line in lines if line[-1].startswith("{")}
    assert "process" not in settings["cld"]
    assert settings["low"]["process"]["gamma"] == 0.01


def test_a_budget_may_be_a_word(once):
    striding = {"overrides": ["sampler=em", "sampler.steps=3"], "budget": "sampler.striding"}
    content = changed("samplers/em", striding) | {"gallery": "em-uniform"}
    columns = [{"label": word, "budget": word} for word in ("uniform", "quadratic")]
    table = {"columns": columns, "rows": [{"label": ["EM", "PSLD"], "model": "psld"}]}
    content["tables"] = {"steps": content["tables"]["steps"] | table}
    grid = grid_in(written_once(once, "words", content))
    assert "em (uniform, quadratic)" in results_page(grid)


def test_all_entries_are_counted_by_status(content, grid):
    [[head, *lines]] = [table for table in Page(content).tables if table[0][0] == "table"]
    for name, *numbers in lines:
        statuses = [entry.status for row in read_table(grid, name) for entry in row]
        counted = dict(zip(head[1:], map(int, numbers), strict=True))
        assert counted == {status: statuses.count(status) for status in head[1:]}
        assert sum(counted.values()) == len(statuses)


def test_the_page_fetches_and_runs_nothing_and_all_links_have_targets(content):
    page = Page(content)
    assert not page.all("script", "link", "iframe", "object", "embed")
    assert not re.search(r"https?:|@import|url\(|\son\w+=", content)
    assert all(image["src"].startswith("data:image/") for image in page.all("img"))
    names = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(names) == len(set(names))
    assert {link["href"] for link in page.all("a")} <= {f"#{name}" for name in names}
    assert all(cell["scope"] in ("col", "row") for cell in page.all("th"))


def test_every_figure_is_shown_once_and_described(content, grid):
    page, figures = Page(content), all_figures(grid)
    assert len(page.all("img")) == len(page.all("figure")) == len(figures)
    assert "Not drawn yet" not in content
    for figure in figures.values():
        assert figure.title in content
        assert figure.caption in html.unescape(content)
    for image in page.all("img"):
        assert len(image["alt"]) > 10
        assert (image["width"], image["height"]) == ("80", "60")


def test_before_anything_was_run_the_page_lists_what_is_missing(tmp_path, monkeypatch, grid):
    monkeypatch.chdir(tmp_path)
    content = results_page(grid)
    number = sum(len(t.rows) * len(t.columns) for t in grid.file.tables.values())
    assert f"of {number} numbers can be compared with a number of the paper" in content
    assert ["table", "not run", "literature"] in [table[0] for table in Page(content).tables]
    assert f"Not drawn yet: {', '.join(all_figures(grid))}." in content
    assert not re.search(r"\b(nan|None)\b", content)


def embedded(content: str, number: int) -> tuple[Image.Image, int]:
    """Return the pixels of a picture as the page shows it, and its size in bytes."""
    source = re.search(rf'id="figure-{number}".*?src="data:image/webp;base64,(.*?)"', content, re.S)
    data = base64.b64decode(source[1])
    return Image.open(io.BytesIO(data)), len(data)


def test_gray_pictures_keep_every_pixel_and_photographs_are_made_small(folder, grid):
    generator = np.random.default_rng(0)
    gray = generator.integers(0, 256, (40, 60), np.uint8)
    draw(folder, "samples/cld", gray)
    smooth = np.linspace(0, 255, 400 * 2000).reshape(400, 2000, 1)
    noise = generator.integers(-8, 9, (400, 2000, 3))
    draw(folder, "samples/low", np.clip(smooth + noise, 0, 255).astype(np.uint8))
    content = page_in(folder)
    shown, _ = embedded(content, 1)
    assert (np.array(shown.convert("L")) == gray).all()
    shown, size = embedded(content, 2)
    assert shown.size == (MOST_PIXELS, MOST_PIXELS // 5)
    assert size < 150_000


def test_five_figures_are_shown_and_the_others_are_folded(content, grid):
    folded = content.index("More figures</h2>")
    numbers = [int(number) for number in re.findall('id="figure-([0-9]+)"', content)]
    assert numbers == list(range(1, len(all_figures(grid)) + 1))
    assert content.index('id="figure-5"') < folded < content.index('id="figure-6"')


def test_names_in_backticks_are_code_and_elsewhere_have_no_backticks(folder, grid):
    file = grid.file.model_copy(update={"title": "What `few` does", "question": "Is `a<b` so?"})
    content = results_page(replace(grid, file=file))
    assert "<h1>What <code>few</code> does</h1>" in content
    assert "<title>What few does</title>" in content
    assert "<code>a&lt;b</code>" in content


@in_a_browser
def test_nothing_is_cut_off_on_a_phone_and_tables_stand_next_to_texts_on_a_desktop(
    content, folder, tmp_path
):
    page = folder / "results/mine.html"
    narrow, wide = (shown(page, width, tmp_path) for width in (390, 1280))
    assert narrow["cut"] == []
    assert not any(narrow["beside"])
    assert all(wide["beside"])
    assert narrow["overflow"] <= 0
