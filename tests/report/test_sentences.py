"""The sentence above a table states the result, and claims no more than marks and intervals."""

from pathlib import Path

import pytest

from psld.grid.cells import Grid
from psld.grid.rows import read_table
from psld.report.table import PIXELS, table_text
from tests.commands import call, succeeded
from tests.grid.mine import grid_content, grid_in, link_grid, written_once
from tests.results import made_with, write_result

GRID = grid_content("""
models:
  one: [process=cld]
  two: [process=psld]
labels: {one: the first, em: Euler}
tables:
  mine:
    title: Mine
    headings: [model]
    columns:
      - {label: start, sampler: few, budget: 0}
      - {label: few 3, sampler: few, budget: 3}
      - {label: EM 10, sampler: em, budget: 10}
      - {label: EM 40, sampler: em, budget: 40}
      - {label: SSCS 40, sampler: sscs, budget: 40}
    rows: [{label: [one], model: one}, {label: [two], model: two}]
  few:
    title: Few
    headings: [model]
    compare:
      - where: "With the first,"
        entries:
          3 steps of `few`: {model: one, sampler: few}
          40 EM steps: {model: one, sampler: em}
          40 SSCS steps: {model: one, sampler: sscs}
      - entries:
          the first: {model: one, sampler: em}
          the second: {model: two, sampler: em}
    columns:
      - {label: few 3, sampler: few, budget: 3}
      - {label: EM 40, sampler: em, budget: 40}
      - {label: SSCS 40, sampler: sscs, budget: 40}
    rows: [{label: [one], model: one}, {label: [two], model: two}]
  pixels:
    title: Pixels
    headings: [model]
    cell: {metric: fd-pixels}
    columns:
      - {label: few 3, sampler: few, budget: 3}
      - {label: EM 40, sampler: em, budget: 40}
    rows: [{label: [one], model: one}]
  shares:
    title: Shares
    headings: [model]
    cell: {sampler: em, budget: 10, metric: recall-classifier}
    columns: [{label: recall}]
    rows: [{label: [one], model: one}, {label: [two], model: two}]
""")


@pytest.fixture(scope="module")
def project(once) -> Path:
    return written_once(once, "sentences", GRID)


@pytest.fixture(scope="module")
def grid(project) -> Grid:
    return grid_in(project)


@pytest.fixture
def folder(project, tmp_path, monkeypatch) -> Path:
    link_grid(project, tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def said(folder: Path, grid: Grid, table: str = "mine", **values: tuple[float, float]) -> str:
    """Return the sentence if the cells (`one_em_10`) have these distances and standard errors."""
    for name, (value, error) in values.items():
        model, sampler, budget = name.split("_")
        write_result(folder, grid, f"{model}/{sampler}-{budget}", value=value, error=error)
    return table_text(grid.file.tables[table], read_table(grid, table)).answer


ONCE = "The numbers are from one training of each model."


def test_a_sentence_answers_the_comparisons_of_its_table(folder, grid):
    values = {"one_few_3": (0.26, 0.01), "one_em_40": (0.95, 0.01), "one_sscs_40": (3.0, 0.01)}
    text = said(folder, grid, "few", **values, two_em_40=(0.5, 0.01))
    assert text == (
        "With the first, images of 3 steps of `few` (0.26 ± 0.02) are nearer to the data than "
        "images of 40 EM steps (0.95 ± 0.02) and images of 40 SSCS steps (3.00 ± 0.02); images of "
        "40 EM steps are nearer to the data than images of 40 SSCS steps. Images of the second "
        "(0.50 ± 0.02) are nearer to the data than images of the first (0.95 ± 0.02), by 0.45 ± "
        f"0.00. {ONCE}"
    )


def test_insignificant_differences_are_reported_as_no_difference(folder, grid):
    values = {"one_few_3": (0.26, 0.01), "one_em_40": (0.95, 0.9), "one_sscs_40": (0.95, 0.9)}
    text = said(folder, grid, "few", **values)
    assert text == (
        "With the first, no difference between 3 steps of `few` (0.26 ± 0.02), 40 EM steps (0.95 ± "
        f"1.88) and 40 SSCS steps (0.95 ± 1.88) can be told. {ONCE}"
    )
    text = said(folder, grid, "few", one_em_40=(9.0, 0.01), one_sscs_40=(0.3, 0.1))
    assert text == (
        "With the first, images of 3 steps of `few` (0.26 ± 0.02) are nearer to the data than "
        "images of 40 EM steps (9.00 ± 0.02); images of 40 SSCS steps (0.30 ± 0.21) are nearer to "
        "the data than images of 40 EM steps; no difference between 3 steps of `few` and 40 SSCS "
        f"steps can be told. {ONCE}"
    )
    assert said(folder, grid, "few") == text


def test_tables_of_pixel_distances_warn_that_pixels_favor_the_start(folder, grid):
    metric = grid.metrics["fd-pixels"]
    for cell, value in (("one/em-40", 0.9), ("one/few-3", 0.3)):
        [measurement] = [m for m in grid.cells[cell].measurements if m.metric == metric]
        made = {"metric": metric.identity(), "record": measurement.digest(grid.cells[cell].digest)}
        write_result(folder, grid, cell, value=value, **made)
        text = said(folder, grid, "pixels")
        assert text.endswith(PIXELS) == (cell == "one/few-3"), "EM starts from the prior"


def test_a_void_result_has_no_value_and_its_reason_is_noted(folder, grid):
    said(folder, grid, one_em_10=(3.0, 0.01), two_em_10=(2.0, 0.01))
    write_result(folder, grid, "one/em-10", value=0.0, void="6.0% are copies")
    rows = read_table(grid, "mine")
    text = table_text(grid.file.tables["mine"], rows)
    assert (rows[0][2].value, rows[0][2].others) == (None, ())
    assert f"No value (–) of {grid.file.metric} on digits: 6.0% are copies." in text.notes
    assert "8 of 10 entries have not been run (–)." in text.notes


def test_the_comparisons_of_a_table_are_corrected(folder, grid):
    """p = 0.02 for one of four comparisons is not significant, also if the other comparisons have
    no results yet."""
    few = {"one_few_3": (1.0, 0.0)}
    assert "are nearer to the data" in said(folder, grid, "few", **few, one_em_40=(1.25, 0.03))
    assert "are nearer" not in said(folder, grid, "few", **few, one_em_40=(1.25, 0.1))
    text = said(folder, grid, "few", one_sscs_40=(1.25, 0.1), two_em_40=(1.25, 0.1))
    assert "are nearer" not in text
    assert "no difference between 3 steps of `few` (1.00 ± 0.00), 40 EM steps" in text


def test_without_comparisons_the_sentence_names_the_best_and_equally_good_entries(folder, grid):
    text = said(folder, grid, one_em_40=(2.5, 0.01), two_em_10=(2.0, 0.01))
    best = "Images of two, EM 10, from the prior (2.00 ± 0.02) are nearer to the data than "
    assert text == f"{best}images of all other measured entries. {ONCE}"
    wide = {"one_em_10": (3.0, 3), "one_em_40": (2.5, 3), "two_em_40": (2.2, 3)}
    text = said(folder, grid, **wide)
    assert "nearest to the data as measured; no difference from 3 other entries can be told" in text
    text = said(folder, grid, one_em_10=(30.0, 0.1), one_em_40=(20.0, 0.1), one_few_3=(2.0, 0.01))
    assert (
        "; no difference from two, EM 10, from the prior (2.00 ± 0.02) and two, EM 40, from the "
        in text
    )
    made = made_with(grid, "one/em-40")
    made["sampler"]["start"] = "gaussian"
    write_result(folder, grid, "one/em-40", value=0.9, error=0.01, **made)
    assert "Images of one, EM 40, from one Gaussian (0.90 ± 0.02)" in said(folder, grid)


def test_larger_shares_are_better_and_a_single_number_has_no_sentence(folder, grid):
    metric = grid.metrics["recall-classifier"]
    for name, value in (("one", 0.5), ("two", 0.8)):
        cell = grid.cells[f"{name}/em-10"]
        [measurement] = [m for m in cell.measurements if m.metric == metric]
        record = measurement.digest(cell.digest)
        made = {"metric": metric.identity(), "record": record, "error": 0.01}
        write_result(folder, grid, cell.name, value=value, **made)
        text = said(folder, grid, table="shares")
        assert bool(text) == (name == "two")
    assert text.startswith(
        "Images of two, recall, from the prior (0.80 ± 0.02) are better than images"
    )


def test_sentences_are_printed_with_the_page_and_are_in_every_format(folder, grid):
    answer = said(folder, grid, one_few_3=(0.26, 0.01), one_em_40=(0.95, 0.01))
    *_, title, printed, _, _, page = succeeded(
        call(folder, "page", "grid_name=mine")
    ).stdout.splitlines()
    assert (title, printed.strip(), page) == ("Mine", answer, "Page: results/mine.html")
    assert (folder / "results/mine.html").read_text().count(answer) == 2, "on top and at its table"
    succeeded(call(folder, "tabulate", "grid_name=mine", "table=mine"))
    for ending in ("md", "html"):
        assert answer in (folder / f"results/tables/mine/mine.{ending}").read_text()
    printed = succeeded(call(folder, "tabulate", "grid_name=mine")).stdout
    assert answer in printed
    assert printed.count("Scale of ") == printed.count("Marks: ") == 1, "once for all tables"
