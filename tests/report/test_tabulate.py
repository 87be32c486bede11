"""Tables of a grid whose cells are partly measured, partly missing."""

import contextlib
import csv
import html
import json
import math
import re
import shutil
from functools import reduce
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from psld.config.locations import CONFIGS
from psld.config.settings import write_record
from psld.grid.entries import read_table
from psld.grid.loading import load_grid
from psld.grid.resolved import Grid
from psld.grid.results import CellResult, CellResults
from psld.grid.tables import RECORDED
from psld.report.formats import SYMBOLS, latex, markdown
from psld.report.html import table_page
from psld.report.table import EVERY_ENTRY, Text, scales, text_of
from tests.commands import call, refused, succeeded
from tests.results import (
    WEIGHTS,
    cell_result,
    estimate_of,
    link_grid,
    sealed,
    write_grid,
    write_result,
)

GRID = yaml.safe_load("""
defaults: [dataset=digits, network=demo, training=demo]
metric: fd-classifier
samples: 100
shard_size: 50
batch_size: 50
gallery: em-10
models:
  cld: [process=cld]
  psld: [process=psld]
samplers:
  em: {overrides: [sampler=em], budget: sampler.steps}
  sscs: {overrides: [sampler=sscs], budget: sampler.steps}
tables:
  mine:
    title: "Mine: 50% & <more>"
    caption: A caption_with an underscore.
    headings: [sampler, model]
    footnotes: [A note of the paper's.]
    band: {absolute: 0.1, relative: 0.05, reason: Chosen for this test.}
    columns:
      - {label: "10", budget: 10}
      - {label: NFE at 10, budget: 10, show: nfe}
      - {label: "20", budget: 20}
    rows:
      - {label: [EM, CLD], sampler: em, model: cld, paper: [2.0, 10, null], source: V}
      - {label: [EM, "PSLD #1_a"], sampler: em, model: psld, paper: [9.0, 10, 3.0]}
      - {label: [SSCS, "PSLD #1_a"], sampler: sscs, model: psld}
      - {label: [EM, "another's"], literature: true, paper: [3.17, 1000, null]}
""")

MEASURED = {
    "cld/em-10": (2.0625, 0.01),
    "cld/em-20": (1.5, 0.01),
    "psld/em-10": (7.25, 0.1),
    "psld/sscs-20": (1234.5, 10),
}
"""The distance and its standard error of the cells that have been run; two have not."""

PRINTED = [
    ["EM", "CLD", "2.06 ± 0.02 ★ (2.00, +0.06 ✓)", "10 (10, +0 ✓)", "1.50 ± 0.02 ★"],
    ["EM", "PSLD #1_a", "7.25 ± 0.21 (9.00, -1.75 ✗)", "10 (10, +0 ✓)", "– (3.00)"],
    ["SSCS", "PSLD #1_a", "–", "–", "1234.50 ± 20.93"],
    ["EM", "another's", "3.17†", "1000†", "–"],
]


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """A folder whose own configs are GRID."""
    return tmp_path_factory.mktemp("project")


@pytest.fixture(scope="module")
def grid(project) -> Grid:
    return write_grid(project, GRID)


@pytest.fixture
def folder(project, grid, tmp_path) -> Path:
    """A folder where the command reads GRID and finds the results of MEASURED."""
    link_grid(project, tmp_path)
    for cell, (value, error) in MEASURED.items():
        write_result(tmp_path, grid, cell, value=value, error=error)
    return tmp_path


def result_path(folder: Path, cell: str) -> Path:
    return folder / "results" / "cells" / "mine" / f"{cell}.json"


def tabulate(folder: Path) -> dict[str, str]:
    """The table in each format."""
    succeeded(call(folder, "tabulate", "grid_name=mine", "table=mine"))
    return tables(folder)


def tables(folder: Path) -> dict[str, str]:
    made = folder / "results" / "tables" / "mine"
    return {path.name.removeprefix("mine."): path.read_text() for path in made.iterdir()}


def body_of_markdown(text: str) -> list[list[str]]:
    """Main table, or that of every entry after its heading."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def body_of_html(text: str) -> list[list[str]]:
    _, *rows = re.findall(r"<tr[^>]*>(.*?)</tr>", text, re.DOTALL)
    cells = [re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row, re.DOTALL) for row in rows]
    return [[html.unescape(re.sub("</?(small|i)>", "", cell)) for cell in row] for row in cells]


def body_of_latex(text: str) -> list[list[str]]:
    body = re.search(r"\\midrule\n(.*?)\\bottomrule", text, re.DOTALL)[1]
    rows = [line.removesuffix(r" \\") for line in body.splitlines()]
    return [[unescaped(cell) for cell in row.split(" & ")] for row in rows]


def unescaped(text: str) -> str:
    """What LaTeX prints."""
    for character, command in SYMBOLS.items():
        text = text.replace(command, character)
    return text


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


def test_an_empty_list_of_entries_is_left_out(grid, folder):
    """A table may have results of other papers only."""
    rows = read_table(grid, "mine", folder / "results/cells/mine")
    text = text_of(grid.file.tables["mine"], rows[-1:])
    for page in (markdown(text), latex(text), table_page(text)):
        assert "3.17" in page
        assert EVERY_ENTRY not in page


def test_a_small_scale_is_not_printed_as_0(grid, folder):
    for cell in MEASURED:
        write_result(folder, grid, cell, value=0.002, floor=0.00031, noise=12345.6)
    scale = "standard normal noise has 12,300, the test split 0.00031"
    assert scale in tabulate(folder)["md"]


def test_html_fetches_nothing(folder):
    page = tabulate(folder)["html"]
    assert not re.search(r"<script|<link|<img|<iframe|@import|url\(|https?://", page)


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


@pytest.mark.parametrize("name", ["demo", "paper"])
def test_latex_knows_every_symbol_of_a_grid(name, tmp_path):
    """Only letters that LaTeX's usual fonts have: ASCII, Latin-1 and the dash."""
    with contextlib.chdir(CONFIGS.parent):
        real = load_grid(name)
    for table_name, table in real.file.tables.items():
        text: Text = text_of(table, read_table(real, table_name, tmp_path))
        unknown = {c for c in latex(text) if ord(c) > 255} - set("–—…’")
        assert not unknown, table_name
