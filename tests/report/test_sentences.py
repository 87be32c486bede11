"""The sentence at a table's head: it says what came out, and no more than marks and intervals."""

from pathlib import Path

import pytest

from psld.grid.cells import Grid
from psld.grid.rows import read_table
from psld.report.table import table_text
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
    """The sentence if cells (`one_em_10`) have these distances with these standard errors."""
    for name, (value, error) in values.items():
        model, sampler, budget = name.split("_")
        write_result(folder, grid, f"{model}/{sampler}-{budget}", value=value, error=error)
    return table_text(grid.file.tables[table], read_table(grid, table)).answer


def test_few_evaluations_are_compared_with_the_most_of_other_samplers_and_with_the_start(
    folder, grid
):
    """All of them with the network of the best entry."""
    text = said(
        folder,
        grid,
        one_few_0=(1.2, 0.01),
        one_few_3=(0.26, 0.01),
        one_em_10=(3.0, 0.01),
        one_em_40=(0.95, 0.01),
        two_em_40=(0.5, 0.01),
    )
    assert text == (
        "the first: 3 evaluations of few from the mixture (0.26 ± 0.02) are nearer to the data "
        "than the start alone (1.20 ± 0.02) and 40 of Euler (0.95 ± 0.02), with the same network; "
        "real images of the test split have 0.32."
    )
    made = made_with(grid, "one/em-40")
    made["sampler"]["start"] = "gaussian"
    write_result(folder, grid, "one/em-40", value=0.9, error=0.01, **made)
    assert "Euler from one Gaussian (0.90 ± 0.02)" in said(folder, grid)


def test_what_cannot_be_told_is_not_said_to_be_nearer(folder, grid):
    values = {"one_few_3": (0.26, 0.01), "one_em_40": (0.95, 0.01)}
    text = said(folder, grid, **values, one_sscs_40=(0.262, 0.05))
    assert "than 40 of Euler (0.95 ± 0.02), with the same network; 40 of sscs" in text
    assert "40 of sscs (0.26 ± 0.10) cannot be told from them; " in text
    text = said(folder, grid, one_sscs_40=(0.1, 0.01))
    assert "; nearer to the data still: 40 of sscs (0.10 ± 0.02); " in text
    text = said(folder, grid, one_sscs_40=(0.262, 0.05), one_em_40=(0.95, 0.6))
    assert text == (
        "Nearest to the data, as measured: one, few 3 (0.26 ± 0.02); one, EM 40 (0.95 ± 1.26) and "
        "one, SSCS 40 (0.26 ± 0.10) cannot be told from it; real images of the test split have "
        "0.32."
    )


def test_a_result_that_means_nothing_is_no_value_and_says_why(folder, grid):
    said(folder, grid, one_em_10=(3.0, 0.01), two_em_10=(2.0, 0.01))
    write_result(folder, grid, "one/em-10", value=0.0, void="6.0% are copies")
    rows = read_table(grid, "mine")
    text = table_text(grid.file.tables["mine"], rows)
    assert (rows[0][2].value, rows[0][2].others) == (None, ())
    assert f"No value (–) of {grid.file.metric} on digits: 6.0% are copies." in text.notes
    assert "8 of 10 entries have not been run (–)." in text.notes


def test_the_comparisons_of_a_table_are_corrected(folder, grid):
    """p is 0.02 for one comparison; of seven entries, one such difference is no finding, nor is it
    if each of two entries could have been named for its few evaluations, against two samplers.
    """
    alone = {"one_few_3": (1.0, 0.0), "one_em_40": (1.25, 0.1)}
    assert "all others are farther" in said(folder, grid, **alone)
    others = {"one_em_10": 9, "two_em_10": 9, "two_em_40": 9, "two_few_3": 9, "two_sscs_40": 9}
    text = said(folder, grid, **{name: (value, 0.1) for name, value in others.items()})
    assert "one, EM 40 (1.25 ± 0.21) cannot be told from it" in text
    assert "are nearer" not in text


def test_without_fewer_evaluations_the_best_is_named_with_those_that_are_not_told_from_it(
    folder, grid
):
    text = said(folder, grid, one_em_40=(2.5, 0.01), two_em_10=(2.0, 0.01))
    best = "Nearest to the data, as measured: two, EM 10 (2.00 ± 0.02); "
    assert text.startswith(f"{best}all others are farther; ")
    wide = {"one_em_10": (3.0, 3), "one_em_40": (2.5, 3), "two_em_40": (2.2, 3)}
    assert "3 other entries cannot be told from it" in said(folder, grid, **wide)


def test_of_a_share_more_is_better_and_one_number_says_nothing(folder, grid):
    metric = grid.metrics["recall-classifier"]
    for name, value in (("one", 0.5), ("two", 0.8)):
        cell = grid.cells[f"{name}/em-10"]
        [measurement] = [m for m in cell.measurements if m.metric == metric]
        record = measurement.digest(cell.digest)
        made = {"metric": metric.identity(), "record": record, "error": 0.01}
        write_result(folder, grid, cell.name, value=value, **made)
        text = said(folder, grid, table="shares")
        assert bool(text) == (name == "two")
    assert text.startswith("Best, as measured: two, recall (0.80 ± 0.02); all others are worse; ")


def test_sentences_are_the_last_words_of_the_page_and_stand_in_every_format(folder, grid):
    answer = said(folder, grid, one_few_3=(0.26, 0.01), one_em_40=(0.95, 0.01))
    *_, title, printed, page = succeeded(call(folder, "page", "grid_name=mine")).stdout.splitlines()
    assert (title, printed.strip(), page) == ("Mine", answer, "Page: results/mine.html")
    assert (folder / "results/mine.html").read_text().count(answer) == 2, "on top and at its table"
    succeeded(call(folder, "tabulate", "grid_name=mine", "table=mine"))
    for ending in ("md", "html"):
        assert answer in (folder / f"results/tables/mine/mine.{ending}").read_text()
    printed = succeeded(call(folder, "tabulate", "grid_name=mine")).stdout
    assert answer in printed
    assert printed.count("Scale of ") == printed.count("Marks: ") == 1, "once for all tables"
