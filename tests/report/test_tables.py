"""The texts of a table, which are the same in each format."""

import csv
import html
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from psld.config.settings import write_record
from psld.evaluation.results import NUMBER_KINDS, CellResult, CellResults, NumberKind
from psld.grid.rows import entries_in, read_table
from psld.report.page import results_page
from psld.report.table import SYMBOLS, latex, limit_text, our_text, scales, table_text
from tests.commands import call, refused, succeeded
from tests.report.conftest import MEASURED, Page
from tests.results import cell_result, estimate_of, made_with, write_result

PRINTED = [
    ["EM", "CLD", "4.25 ± 0.02 (4.00, +0.25 ✗¹)", "8.50 ± 0.02 (8.00, +0.50 ✗¹)", "10 (10, +0)"],
    ["EM", "low #1_a", "–", "7.50 ± 0.21 ★", "10"],
    ["EM", "high", "– (3.00)", "9.25 ± 0.02 (9.00, +0.25 ✓¹)", "10 (10, +0)"],
    ["EM", "VP-SDE", "2.50 ± 0.02 ★", "–", "–"],
    ["EM", "another's", "3.17†", "–", "1000†"],
]


def tabulate(folder: Path, table: str = "mine") -> dict[str, str]:
    """Return the table in each format."""
    finished = succeeded(call(folder, "tabulate", "grid_name=mine", f"table={table}"))
    assert finished.stdout.startswith(f"wrote results/tables/mine/{table}.csv, ")
    files = (folder / "results/tables/mine").glob(f"{table}.*")
    return {path.suffix[1:]: path.read_text() for path in files}


def body_of_markdown(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def body_of_latex(text: str) -> list[list[str]]:
    body = re.search(r"\\midrule\n(.*?)\\bottomrule", text, re.DOTALL)[1]
    rows = [line.removesuffix(r" \\") for line in body.splitlines()]
    return [[unescaped(cell) for cell in row.split(" & ")] for row in rows]


def unescaped(text: str) -> str:
    """Return the characters that LaTeX prints."""
    for character, command in SYMBOLS.items():
        text = text.replace(command, character)
    return text


def test_all_formats_hold_the_same_entries_and_texts(folder):
    text = tabulate(folder)
    assert sorted(text) == ["csv", "html", "md", "tex"]
    assert body_of_markdown(text["md"]) == PRINTED
    assert Page(text["html"]).tables[0][1:] == PRINTED
    assert body_of_latex(text["tex"]) == PRINTED
    lines = list(csv.DictReader(text["csv"].splitlines()))
    for line, shown in zip(lines, [cell for row in PRINTED for cell in row[2:]], strict=True):
        digits = 0 if line["shows"] == "nfe" else 2
        number = line["paper"] if line["status"] == "literature" else line["ours"]
        assert shown.startswith(f"{float(number):.{digits}f}" if number else "–")
    for part in (
        "Mine: 50% & <more>",
        "A caption_with an underscore.",
        "A note of the paper's.",
        "standard normal noise has 98.8; the classifier",
        "test accuracy is 0.987",
        "4 of 15 entries have not been run (–).",
        "Band (✓ ✗): 0.1 or 5% of the paper's value",
        "Chosen for this test.",
        "Marks: docs/results.md",
    ):
        assert part in text["md"].replace(r"\<", "<")
        assert part in html.unescape(text["html"])
        assert part in unescaped(text["tex"])


def test_the_page_marks_entries_by_more_than_color(folder, grid):
    """This includes an entry that more samples or trainings can decide."""
    write_result(folder, grid, "vp-sde/em-20", value=2.4, error=1)
    write_result(folder, grid, "high/em-20", value=3.125, error=0.05)
    page = tabulate(folder)["html"]
    for status, text in {
        "agrees-for-these-weights": "9.25 ± 0.02 <small>(9.00, +0.25 ✓¹)</small>",
        "differs-for-these-weights": "4.25 ± 0.02<i> ≈</i> <small>(4.00, +0.25 ✗¹)</small>",
        "undecided": "3.12 ± 0.10<i> ≈</i> <small>(3.00, +0.12 ?)</small>",
        "measured": "2.40 ± 2.09<i> ★</i>",
        "literature": "3.17†",
    }.items():
        assert re.search(f'<td class="{status}" data-column="[^"]+">{re.escape(text)}</td>', page)


def test_entries_that_differ_from_the_best_despite_overlapping_intervals_are_marked(folder, grid):
    """The samples are paired, so the interval of the difference is smaller."""
    tables = {}
    for value in (8.5, 7.75, 7.51):
        write_result(folder, grid, "low/em-10", value=7.5, error=0.1)
        write_result(folder, grid, "cld/em-10", value=value, error=0.1)
        tables[value] = body_of_markdown(tabulate(folder)["md"])[0][3].partition(" (")[0]
    assert tables == {8.5: "8.50 ± 0.21", 7.75: "7.75 ± 0.21 ≠", 7.51: "7.51 ± 0.21 ≠"}
    text = tabulate(folder)
    assert "<i> ≠</i>" in text["html"]
    assert r"$\neq$" in text["tex"]


def test_origins_of_weights_and_samples_are_noted_in_table_and_page(folder, grid):
    base = {"init": {"model": "mine/base", "weights_sha256": "1" * 64}, "step": 9}
    for cell, fields, gaussians in (
        ("low/em-10", {"saved": True}, 4),
        ("high/em-10", base, 32),
    ):
        made, (value, error) = made_with(grid, cell), MEASURED[cell]
        made["model"] |= fields
        made["sampler"]["start"], made["gaussians"] = "mixture", gaussians
        write_result(folder, grid, cell, value=value, error=error, **made)
    table, page = tabulate(folder)["md"], results_page(grid)
    for note in (
        "The initial distribution (start) of `em` is a mixture of 4 to 32 Gaussians, fitted to the "
        "training images.",
        "Trained from the weights of other models: high from mine/base.",
        "Saved from Python (psld.save), not trained by a command: low.",
    ):
        assert note in table
        assert note.replace("`em`", "<code>em</code>") in page
    assert ">9 from mine/base</td>" in page


def test_each_metric_and_dataset_has_a_scale(grid):
    """One table may show the same metric on two datasets. No number is printed as 0."""
    base = cell_result(grid, "low/em-10", value=1.0, floor=0.00031, noise=12345.6)
    [entry] = [e for e in entries_in(grid, "mine") if e.label == "EM low #1_a, 10"]

    def result(dataset: str, metric: str) -> CellResult:
        settings = base.model.settings | {"dataset": {"name": dataset}}
        model = base.model.model_copy(update={"settings": settings})
        return base.model_copy(update={"metric": base.metric | {"name": metric}, "model": model})

    def said(*kinds: tuple[str, str]) -> list[str]:
        return list(scales([replace(entry, by_cell={0: result(*kind)}) for kind in kinds]))

    names = [note.partition(":")[0] for note in said(("digits", "fid"), ("digits", "fid-test"))]
    assert names == ["Scale of fid", "Scale of fid-test"]
    two = said(("digits", "fid"), ("faces", "fid"), ("faces", "fid"))
    assert [n.partition(":")[0] for n in two] == ["Scale of fid on digits", "Scale of fid on faces"]
    scale = "Scale of fid on digits: standard normal noise has 12,300"
    assert two[0] == f"{scale}; the classifier's test accuracy is 0.987."


def test_results_of_several_numbers_of_samples_share_a_file(folder, grid):
    values = {50: 9.0, 100: 8.5, 20: 8.0}
    results = [
        cell_result(grid, "cld/em-10", samples=n, value=v, error=0.01) for n, v in values.items()
    ]
    write_record(grid.cells["cld/em-10"].result, CellResults(results=results))
    assert body_of_markdown(tabulate(folder)["md"]) == PRINTED


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (NumberKind(lambda result: estimate_of(0.5, result.samples, 0.001)), "0.500 ± 0.002"),
        (NumberKind(lambda result: 12.345, decimals=1, from_features=False), "12.3"),
    ],
)
def test_a_custom_kind_of_number_has_digits_interval_and_band(folder, monkeypatch, kind, text):
    """The number of digits, the interval and the band change accordingly."""
    monkeypatch.setitem(NUMBER_KINDS, "nfe", kind)
    printed = body_of_markdown(tabulate(folder)["md"])[0][4]
    assert printed.startswith(f"{text} (10")
    assert ("✗¹" in printed) == kind.from_features


def test_errors_are_one_line_and_keep_existing_tables(folder, grid):
    refused(
        call(folder, "tabulate", "grid_name=mine", "table=yours"),
        *(2, "table: 'yours' is not in grid mine; its tables are: mine, few, ode, holes"),
    )
    before, path = tabulate(folder), grid.cells["low/em-10"].result
    (folder / path).write_text('{"value": 1')
    for table in (["table=mine"], []):
        finished = call(folder, "tabulate", "grid_name=mine", *table)
        refused(finished, 2, f"{path}: not ", "delete it")
    files = (folder / "results/tables/mine").iterdir()
    assert {path.suffix[1:]: path.read_text() for path in files} == before


def test_a_table_is_made_before_anything_was_run(folder):
    shutil.rmtree(folder / "results")
    text = tabulate(folder)
    assert "12 of 15 entries have not been run (–)." in text["md"]
    assert body_of_markdown(text["md"])[0][2:] == ["– (4.00)", "– (8.00)", "– (10)"]
    assert "nan" not in "".join(text.values()).lower()


def test_without_a_table_name_all_tables_are_printed_with_a_summary(folder):
    """Nothing is written."""
    text = succeeded(call(folder, "tabulate", "grid_name=mine")).stdout
    assert not (folder / "results/tables").exists()
    assert body_of_markdown(text)[: len(PRINTED)] == PRINTED
    columns, _, counts, *others = [line for line in text.splitlines() if line.startswith("|")][-6:]
    assert [c.strip() for c in columns.strip("|").split("|")][1:] == [
        *("agrees for these weights", "differs for these weights"),
        *("measured", "not run", "literature"),
    ], "those that there are"
    assert [c.strip() for c in counts.strip("|").split("|")] == ["mine", *"12543"]
    assert len(others) == 3


def test_latex_knows_every_symbol_of_the_grids(grids, tmp_path):
    """The texts contain only characters of LaTeX's standard fonts: ASCII, Latin-1 and the dash."""
    for grid in grids.values():
        for name, table in grid.file.tables.items():
            text = table_text(table, read_table(grid, name, tmp_path))
            assert not {c for c in latex(text) if ord(c) > 255} - set("–—…’"), name


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (2.0, 0.1, "2.00 ± 0.21"),
        (2.0, 0.001, "2.000 ± 0.002"),
        (2.0, 0.0049, "2.00 ± 0.01"),
        (0.0123, 0.00004, "0.01230 ± 0.00008"),
    ],
)
def test_errors_are_printed_with_at_least_one_significant_digit(grid, value, error, text):
    """± is half of the 95 % interval: 2.093 standard errors of twenty blocks."""
    entry = read_table(grid, "mine")[0][1]
    result = cell_result(grid, entry.cell.name, value=value, error=error)
    assert our_text(replace(entry, by_cell={entry.cell: result})) == text


def test_extrapolated_distances_are_printed_with_their_intervals(grid, folder):
    text = limit_text(grid.file.tables["mine"], read_table(grid, "mine"))
    assert text.columns == ["sampler", "model", "20", "10"], "no column of counts"
    assert text.lines[0][2:] == ["4.25 (4.23 to 4.27)", "8.50 (8.48 to 8.52)"]
    assert text.lines[1][2:] == ["–", "7.50 (7.29 to 7.71)"]
    assert limit_text(grid.file.tables["mine"], read_table(grid, "mine", folder / "no")) is None
    assert text.lines[0][2] in results_page(grid)
