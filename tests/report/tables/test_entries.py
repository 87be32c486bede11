"""The entries of a table: verdicts, ranks, scales, and the results that they show."""

import shutil
from types import SimpleNamespace

import pytest

from psld.config.settings import write_record
from psld.evaluation.results import NUMBER_KINDS, CellResult, CellResults, NumberKind
from psld.report.table import scales
from tests.commands import call, refused, succeeded
from tests.report.tables.conftest import (
    MEASURED,
    PRINTED,
    body_of_markdown,
    records,
    tables,
    tabulate,
)
from tests.results import cell_result, estimate_of, write_result


def printed(folder, row: int = 0, column: int = 2) -> str:
    return body_of_markdown(tabulate(folder)["md"])[row][column]


def test_a_scale_belongs_to_a_metric_and_a_dataset(grid):
    """One table may show the same metric on two datasets."""
    base = cell_result(grid, "psld/em-10", value=1.0)

    def result(dataset: str, metric: str) -> CellResult:
        settings = base.model.settings | {"dataset": {"name": dataset}}
        model = base.model.model_copy(update={"settings": settings})
        return base.model_copy(update={"metric": base.metric | {"name": metric}, "model": model})

    def names(*kinds: tuple[str, str]) -> list[str]:
        notes = scales([SimpleNamespace(results=(result(*kind),)) for kind in kinds])
        return [note.partition(":")[0] for note in notes]

    assert names(("digits", "fid"), ("digits", "fid-test")) == ["Scale of fid", "Scale of fid-test"]
    two = (("digits", "fid"), ("faces", "fid"), ("faces", "fid"))
    assert names(*two) == ["Scale of fid on digits", "Scale of fid on faces"]


def test_an_interval_that_overlaps_the_band_in_part_is_undecided(folder, grid):
    """The nearer end of the band from 1.9 to 2.1 is 0.0375 away, and the interval is wider."""
    write_result(folder, grid, "cld/em-10", value=2.0625, error=0.05)
    text = tabulate(folder)
    assert body_of_markdown(text["md"])[0][2] == "2.06 ± 0.10 ★ (2.00, +0.06 ?)"
    assert "1 of 12 entries are undecided (?); only more trainings can decide 1." in text["md"]
    first = records(folder)[0]
    assert [first[key] for key in ("status", "needs", "more_samples")] == [
        "undecided",
        "trainings",
        "",
    ]
    assert '<td class="undecided">' in text["html"]
    write_result(folder, grid, "cld/em-10", value=2.3, error=0.05)
    assert printed(folder) == "2.30 ± 0.10 ★ (2.00, +0.30 ✗¹)"


def test_a_value_on_an_end_of_the_band_has_one_verdict(folder, grid):
    """Without an interval it is inside, though 2.1 − 2.0 is more than 0.1 as a float."""
    for value, word in ((2.1, "agrees"), (2.11, "differs")):
        write_result(folder, grid, "cld/em-10", value=value, error=0.0)
        assert records(folder)[0]["status"] == f"{word} for these weights"


def test_a_difference_that_is_not_significant_is_marked(folder, grid):
    """Paired: both have the same blocks, so a common error of 0.5 hides no difference of 0.1."""
    write_result(folder, grid, "cld/em-10", value=7.0, error=0.5)
    write_result(folder, grid, "psld/em-10", value=7.1, error=0.51)
    assert printed(folder, row=0) == "7.00 ± 1.05 ★ (2.00, +5.00 ✗¹)"
    assert printed(folder, row=1) == "7.10 ± 1.07 (9.00, -1.90 ✗¹)"
    write_result(folder, grid, "psld/em-10", value=7.1, error=0.7)
    assert printed(folder, row=1) == "7.10 ± 1.47 ≈ (9.00, -1.90 ?)"


def test_a_small_scale_is_not_printed_as_0(grid, folder):
    for cell in MEASURED:
        scale = {"floor": 0.00031, "floor_samples": 1234, "noise": 12345.6}
        write_result(folder, grid, cell, value=0.002, **scale)
    scale = "standard normal noise has 12,300, the test split (1,234 images) 0.00031"
    assert scale in tabulate(folder)["md"]


def test_a_table_is_made_before_anything_was_run(folder):
    shutil.rmtree(folder / "results")
    text = tabulate(folder)
    assert "9 of 12 entries have not been run (–)." in text["md"]
    assert body_of_markdown(text["md"])[0][2:] == ["– (2.00)", "– (10)", "–"]
    assert "nan" not in "".join(text.values()).lower()


def test_a_result_of_another_record_is_one_that_has_not_been_run(folder, grid):
    """The grid may have changed since; results of several numbers of samples share a file."""
    write_result(folder, grid, "cld/em-10", value=2.0, record="0" * 64)
    assert body_of_markdown(tabulate(folder)["md"])[0][2:4] == ["– (2.00)", "– (10)"]
    values = {50: 9.0, 100: 2.0625, 20: 8.0}
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
def test_a_kind_of_number_is_one_entry(folder, monkeypatch, kind, text):
    """Its digits, its interval and its band follow."""
    monkeypatch.setitem(NUMBER_KINDS, "nfe", kind)
    assert printed(folder, column=3).startswith(f"{text} (10")
    status = records(folder)[1]["status"]
    assert status == ("differs for these weights" if kind.from_features else "measured")


def test_an_unknown_table_is_refused(folder):
    finished = call(folder, "tabulate", "grid_name=mine", "table=yours")
    refused(finished, 2, "table: 'yours' is not in grid mine; there are: mine")


def test_damaged_metrics_are_named_and_what_existed_stays(folder, grid):
    before, path = tabulate(folder), grid.cells["psld/em-10"].result
    for content in ('{"value": 1', "[]", '{"value": 1.0, "nfe": 10}'):
        (folder / path).write_text(content)
        for table in (["table=mine"], []):
            finished = call(folder, "tabulate", "grid_name=mine", *table)
            refused(finished, 2, f"{path}: not ", "delete it")
    assert tables(folder) == before


def test_without_a_table_all_are_printed_with_the_number_of_entries_by_status(folder):
    """Nothing is written."""
    text = succeeded(call(folder, "tabulate", "grid_name=mine")).stdout
    assert not (folder / "results/tables").exists()
    assert body_of_markdown(text.partition("### Grid")[0]) == PRINTED
    columns, _, counts = [line for line in text.splitlines() if line.startswith("|")][-3:]
    assert [c.strip() for c in columns.strip("|").split("|")][1:] == [
        *("agrees for these weights", "differs for these weights"),
        *("measured", "not run", "literature"),
    ], "those that there are"
    assert [c.strip() for c in counts.strip("|").split("|")] == ["mine", *"11433"]
