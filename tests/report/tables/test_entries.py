"""The entries of a table: verdicts, ranks, scales, and the results that they show."""

import csv
import json
import math
import shutil
from functools import reduce
from types import SimpleNamespace

import pytest

from psld.config.settings import write_record
from psld.grid.results import CellResult, CellResults
from psld.report.table import EVERY_ENTRY, scales
from tests.commands import call, refused, succeeded
from tests.report.conftest import result_path
from tests.report.tables.conftest import (
    MEASURED,
    PRINTED,
    body_of_markdown,
    tables,
    tabulate,
)
from tests.results import (
    WEIGHTS,
    cell_result,
    estimate_of,
    sealed,
    write_result,
)


def test_a_scale_belongs_to_a_metric_and_a_dataset(grid):
    """One table may show the same metric on two datasets."""
    known = cell_result(grid, "psld/em-10", value=1.0)

    def result(dataset: str, metric: str) -> CellResult:
        settings = known.model.settings | {"dataset": {"name": dataset}}
        model = known.model.model_copy(update={"settings": settings})
        return known.model_copy(update={"metric": {"name": metric}, "model": model})

    def shown(*kinds: tuple[str, str]) -> dict[str, CellResult]:
        return scales([SimpleNamespace(results=(result(*kind),)) for kind in kinds])

    assert list(shown(("digits", "fid"), ("digits", "fid-test"))) == ["fid", "fid-test"]
    found = shown(("digits", "fid"), ("faces", "fid"), ("faces", "fid"))
    assert found == {
        "fid on digits": result("digits", "fid"),
        "fid on faces": result("faces", "fid"),
    }


def test_an_interval_that_overlaps_the_band_in_part_is_undecided(folder, grid):
    """The nearer end of the band from 1.9 to 2.1 is 0.0375 away, and the interval is wider."""
    write_result(folder, grid, "cld/em-10", value=2.0625, error=0.05)
    text = tabulate(folder)
    assert body_of_markdown(text["md"])[0][2] == "2.06 ± 0.10 ★ (2.00, +0.06 ?)"
    needed = math.ceil(100 * (2.093024 * 0.05 / 0.0375) ** 2) - 100
    said = f"1 of 12 entries are undecided. Up to {needed:,} more samples, as further seeds, would"
    assert f"{said} decide 1 entry" in text["md"]
    record = next(csv.DictReader(text["csv"].splitlines()))
    assert (record["status"], record["more_samples"]) == ("undecided", str(needed))
    assert '<td class="undecided">' in text["html"]
    write_result(folder, grid, "cld/em-10", value=2.3, error=0.05)
    assert body_of_markdown(tabulate(folder)["md"])[0][2] == "2.30 ± 0.10 ★ (2.00, +0.30 ✗)"


def test_a_value_on_an_end_of_the_band_has_one_verdict(folder, grid):
    """Without an interval it is inside, though 2.1 − 2.0 is more than 0.1 as a float."""
    for value, status in ((2.1, "reproduced"), (2.11, "off")):
        write_result(folder, grid, "cld/em-10", value=value, error=0.0)
        record = next(csv.DictReader(tabulate(folder)["csv"].splitlines()))
        assert record["status"] == status
    write_result(folder, grid, "cld/em-10", value=2.1, error=0.05)
    assert (
        "on an end of the band: if it stays, no number of samples decides"
        in (tabulate(folder)["md"])
    )


def test_a_difference_that_is_not_significant_is_marked(folder, grid):
    """Paired: both have the same blocks, so a common error of 0.5 hides no difference of 0.1."""
    write_result(folder, grid, "cld/em-10", value=7.0, error=0.5)
    write_result(folder, grid, "psld/em-10", value=7.1, error=0.51)
    table = body_of_markdown(tabulate(folder)["md"])
    assert [row[2] for row in table[:2]] == [
        "7.00 ± 1.05 ★ (2.00, +5.00 ✗)",
        "7.10 ± 1.07 (9.00, -1.90 ✗)",
    ]
    write_result(folder, grid, "psld/em-10", value=7.1, error=0.7)
    assert body_of_markdown(tabulate(folder)["md"])[1][2] == "7.10 ± 1.47 ≈ (9.00, -1.90 ?)"


def test_a_small_scale_is_not_printed_as_0(grid, folder):
    for cell in MEASURED:
        write_result(folder, grid, cell, value=0.002, floor=0.00031, noise=12345.6)
    scale = "standard normal noise has 12,300, the test split 0.00031"
    assert scale in tabulate(folder)["md"]


def test_a_table_is_made_before_anything_was_run(folder):
    shutil.rmtree(folder / "results")
    text = tabulate(folder)
    assert "9 of 12 entries have not been run (–)." in text["md"]
    assert body_of_markdown(text["md"])[0][2:] == ["– (2.00)", "– (10)", "–"]
    assert "nan" not in "".join(text.values()).lower()


@pytest.mark.parametrize(
    ("settings", "key", "value"),
    [
        (("model", "settings", "training"), "batch_size", 7),
        (("sampler",), "steps", 11),
        (("metric", "extractor"), "seed", 1),
        ((), "guide", {"settings": {}, "name": "x", **WEIGHTS}),
        ((), "seed", 1),
        ((), "estimate", estimate_of(1.0, samples=50).model_dump(mode="json")),
    ],
)
def test_a_cell_of_other_settings_is_one_that_has_not_been_run(folder, settings, key, value):
    """A grid may have changed since."""
    path = result_path(folder, "cld/em-10")
    content = json.loads(path.read_text())
    changed = reduce(dict.__getitem__, settings, content["results"][0])
    assert changed[key] != value
    changed[key] = value
    path.write_text(sealed(content))
    shown = body_of_markdown(tabulate(folder)["md"])[0][2:]
    assert shown == ["– (2.00)", "– (10)", "1.50 ± 0.02 ★"]


def test_of_several_results_of_a_cell_the_table_shows_its_own(folder, grid):
    values = {50: 9.0, 100: 2.0625, 20: 8.0}
    results = [
        cell_result(grid, "cld/em-10", samples=n, value=v, error=0.01) for n, v in values.items()
    ]
    write_record(result_path(folder, "cld/em-10"), CellResults(results=results))
    assert body_of_markdown(tabulate(folder)["md"].partition("####")[0]) == PRINTED


def test_an_unknown_table_is_refused(folder):
    finished = call(folder, "tabulate", "grid_name=mine", "table=yours")
    refused(finished, 2, "table: 'yours' is not in grid mine; there are: mine")


def test_damaged_metrics_are_named_and_what_existed_stays(folder):
    made = tabulate(folder)
    path = result_path(folder, "psld/em-10")
    for content in ('{"value": 1', "[]", '{"value": 1.0, "nfe": 10}'):
        path.write_text(content)
        for table in (["table=mine"], []):
            finished = call(folder, "tabulate", "grid_name=mine", *table)
            refused(finished, 2, f"{path.relative_to(folder)}: not ", "delete it")
    assert tables(folder) == made


def test_without_a_table_all_are_printed_and_how_many_entries_are_what(folder):
    """Nothing is written."""
    printed = succeeded(call(folder, "tabulate", "grid_name=mine")).stdout
    assert not (folder / "results" / "tables").exists()
    assert body_of_markdown(printed.partition("### Grid")[0]) == PRINTED
    assert EVERY_ENTRY not in printed
    columns, _, counts = [line for line in printed.splitlines() if line.startswith("|")][-3:]
    assert [c.strip() for c in columns.strip("|").split("|")][1:] == [
        *("reproduced", "off", "undecided", "measured", "not run", "literature")
    ]
    assert [c.strip() for c in counts.strip("|").split("|")] == ["mine", *"310233"]
