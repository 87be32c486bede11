"""Tables, plots and galleries of a grid whose cells are partly measured, partly missing."""

import contextlib
import csv
import html
import json
import re
import shutil
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import yaml
from matplotlib.colors import to_hex
from PIL import Image

import psld.plot
import psld.tabulate
from psld.cli import CONFIGS
from psld.grid import Grid, load_grid
from psld.plot import draw, read_points
from psld.samplers.shards import Shard, ShardOrigin
from tests.commands import call, refused, succeeded

GRID = yaml.safe_load("""
defaults: [dataset=digits, network=demo, training=demo]
metric: fd-classifier
samples: 100
shard_size: 50
batch_size: 50
gallery: em-10
models:
  vp-sde: [process=vp-sde]
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
      - {label: [EM, VP-SDE], sampler: em, model: vp-sde, paper: [2.0, 10, null], source: V}
      - {label: [EM, "PSLD #1_a"], sampler: em, model: psld, paper: [9.0, 10, 3.0]}
      - {label: [SSCS, "PSLD #1_a"], sampler: sscs, model: psld}
      - {label: [EM, "another's"], literature: true, paper: [3.17, 1000, null]}
""")

MEASURED = {
    "vp-sde/em-10": 2.0625,
    "vp-sde/em-20": 1.5,
    "psld/em-10": 7.25,
    "psld/sscs-20": 1234.5,
}
"""The distance of the cells that have been run; psld/em-20 and psld/sscs-10 have not."""

PRINTED = [
    ["EM", "VP-SDE", "2.06 (2.00, +0.06 ✓)", "10 (10, +0 ✓)", "1.50"],
    ["EM", "PSLD #1_a", "7.25 (9.00, -1.75 ✗)", "10 (10, +0 ✓)", "– (3.00)"],
    ["SSCS", "PSLD #1_a", "–", "–", "1234.50"],
    ["EM", "another's", "3.17†", "1000†", "–"],
]


@pytest.fixture(scope="module")
def configs(tmp_path_factory) -> Path:
    """The configs with GRID for their only grid."""
    folder = tmp_path_factory.mktemp("project") / "configs"
    shutil.copytree(CONFIGS, folder, ignore=shutil.ignore_patterns("grid"))
    (folder / "grid").mkdir()
    (folder / "grid" / "mine.yaml").write_text(yaml.safe_dump(GRID, sort_keys=False))
    return folder


@pytest.fixture(scope="module")
def grid(configs) -> Grid:
    with contextlib.chdir(configs.parent):
        return load_grid("mine", configs)


@pytest.fixture
def folder(configs, grid, tmp_path, monkeypatch) -> Path:
    """A folder where the commands read GRID and find the metrics of MEASURED."""
    for module in (psld.tabulate, psld.plot):
        monkeypatch.setattr(module, "CONFIGS", configs)
    shutil.copytree(configs.parent / ".cache", tmp_path / ".cache")
    for cell, value in MEASURED.items():
        write_result(tmp_path, cell, value)
    return tmp_path


def result_path(folder: Path, cell: str) -> Path:
    return folder / "results" / "cells" / "mine" / cell / "fd-classifier-100.json"


def write_result(folder: Path, cell: str, value: float) -> None:
    path = result_path(folder, cell)
    path.parent.mkdir(parents=True)
    result = {
        "metric": "fd-classifier",
        "value": value,
        "samples": 100,
        "nfe": float(cell.rpartition("-")[2]),
        "sampling_seconds": 1.5,
        "sampling_device": "CPU",
        "floor": 0.321,
        "noise": 98.76,
        "extractor_test_accuracy": 0.987,
    }
    path.write_text(json.dumps(result))


def tabulate(folder: Path) -> dict[str, str]:
    """The table in each format."""
    succeeded(call(folder, "tabulate", "grid_name=mine", "table=mine"))
    return tables(folder)


def tables(folder: Path) -> dict[str, str]:
    made = folder / "results" / "tables" / "mine"
    return {path.name.removeprefix("mine."): path.read_text() for path in made.iterdir()}


def body_of_markdown(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def body_of_html(text: str) -> list[list[str]]:
    rows = re.findall(r"<tr[^>]*>(.*?)</tr>", text, re.DOTALL)
    cells = [re.findall(r"<td[^>]*>(.*?)</td>", row, re.DOTALL) for row in rows]
    return [[html.unescape(cell) for cell in row] for row in cells if row]


def body_of_latex(text: str) -> list[list[str]]:
    body = re.search(r"\\midrule\n(.*?)\\bottomrule", text, re.DOTALL)[1]
    rows = [line.removesuffix(r" \\") for line in body.splitlines()]
    return [[re.sub(r"\\([&%$#_{}])", r"\1", cell) for cell in r.split(" & ")] for r in rows]


def test_all_formats_hold_the_same_entries(folder):
    text = tabulate(folder)
    assert sorted(text) == ["csv", "html", "md", "tex"]
    assert body_of_markdown(text["md"]) == PRINTED
    assert body_of_html(text["html"]) == PRINTED
    assert body_of_latex(text["tex"]) == PRINTED


def test_csv_holds_what_is_known_of_each_entry(folder):
    records = list(csv.DictReader(tabulate(folder)["csv"].splitlines()))
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
    assert (records[0]["samples"], records[0]["nfe"], records[0]["source"]) == ("100", "10.0", "V")


@pytest.mark.parametrize("ending", ["md", "html", "tex"])
def test_title_caption_and_notes_are_printed(folder, ending):
    text = tabulate(folder)[ending]
    if ending == "tex":
        text = re.sub(r"\\([&%$#_{}])", r"\1", text)
    if ending == "html":
        text = html.unescape(text)
    for part in (
        "Mine: 50% & <more>",
        "A caption_with an underscore.",
        "A note of the paper's.",
        "standard normal noise has 98.8, the test split 0.32",
        "test accuracy is 0.987",
        "3 of 12 entries have not been run (–).",
        "✓ within 0.1 or 5% of the paper's value",
        "Chosen for this test.",
    ):
        assert part in text


def test_what_latex_and_html_would_read_as_commands_is_escaped(folder):
    text = tabulate(folder)
    assert not re.search(r"(?<!\\)[%#_]", text["tex"])
    assert "<more>" not in text["html"]
    assert "&lt;more&gt;" in text["html"]


def test_html_fetches_nothing(folder):
    page = tabulate(folder)["html"]
    assert not re.search(r"<script|<link|<img|<iframe|@import|url\(|https?://", page)


def test_a_table_is_made_before_anything_was_run(folder):
    shutil.rmtree(folder / "results")
    text = tabulate(folder)
    assert "9 of 12 entries have not been run (–)." in text["md"]
    assert body_of_markdown(text["md"])[0][2:] == ["– (2.00)", "– (10)", "–"]


def test_an_unknown_table_is_refused(folder):
    finished = call(folder, "tabulate", "grid_name=mine", "table=yours")
    refused(finished, 2, "table: 'yours' is not in grid mine; there are: mine")


def test_damaged_metrics_are_named_and_what_existed_stays(folder):
    made = tabulate(folder), plot(folder)
    path = result_path(folder, "psld/em-10")
    for content in ('{"value": 1', "[]", '{"value": 1.0, "nfe": 10}'):
        path.write_text(content)
        for command in (("tabulate", "table=mine"), ("plot",)):
            finished = call(folder, *command, "grid_name=mine")
            refused(finished, 2, f"{path.relative_to(folder)}: not ", "delete it")
    assert (tables(folder), picture(folder)) == made


def picture(folder: Path) -> bytes:
    return (folder / "results" / "figures" / "mine" / "nfe.png").read_bytes()


def plot(folder: Path) -> bytes:
    """The plot, PNG."""
    succeeded(call(folder, "plot", "grid_name=mine"))
    return picture(folder)


def test_the_plot_is_a_picture_and_a_vector_graphic(folder):
    plot(folder)
    figures = folder / "results" / "figures" / "mine"
    assert sorted(path.name for path in figures.iterdir()) == ["nfe.png", "nfe.svg"]
    with Image.open(figures / "nfe.png") as image:
        image.load()
        # Two panels of 3 × 3.4 inches at 150 dots an inch.
        assert image.width == pytest.approx(2 * 3 * 150, rel=0.05)
        assert image.height == pytest.approx(3.4 * 150, rel=0.05)
    root = ElementTree.parse(figures / "nfe.svg").getroot()
    assert root.tag.endswith("svg")
    assert float(root.get("width").removesuffix("pt")) == pytest.approx(2 * 3 * 72, rel=0.05)


def lines_of(figure: Any) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """Panel → line → points. The lines of the scale have no name."""
    return {
        axes.get_title(): {
            line.get_label(): list(zip(*map(list, line.get_data()), strict=True))
            for line in axes.get_lines()
            if not line.get_label().startswith("_")
        }
        for axes in figure.axes
    }


def test_the_plot_shows_every_cell_that_was_run(folder, grid):
    figure = draw(grid, *read_points(grid, folder / "results" / "cells" / "mine"))
    assert lines_of(figure) == {
        "em": {"vp-sde": [(10, 2.0625), (20, 1.5)], "psld": [(10, 7.25)]},
        "sscs": {"psld": [(20, 1234.5)]},
    }
    [legend] = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["vp-sde", "psld"]


def test_a_model_has_the_same_colour_in_every_panel_and_a_half_finished_grid(folder, grid):
    cells = folder / "results" / "cells" / "mine"
    result_path(folder, "psld/em-10").unlink()
    figure = draw(grid, *read_points(grid, cells))
    assert lines_of(figure).keys() == {"em", "sscs"}
    colours = {
        line.get_label(): to_hex(line.get_color())
        for axes in figure.axes
        for line in axes.get_lines()
    }
    assert (colours["vp-sde"], colours["psld"]) == ("#0072b2", "#d55e00")
    [legend] = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["vp-sde", "psld"]


def test_nothing_to_plot_is_refused(folder):
    shutil.rmtree(folder / "results")
    refused(call(folder, "plot", "grid_name=mine"), 2, "no results of grid mine yet")
    assert not (folder / "results").exists()


def gallery(folder: Path, images: np.ndarray, *overrides: str) -> np.ndarray:
    """The gallery of these images, as an array."""
    origin = ShardOrigin("0", "0", seed=0, index=0, size=len(images))
    Shard(images, origin, nfe=10, seconds=1.0, device="CPU").save(folder / "shard.h5")
    output = folder / "gallery.png"
    arguments = ("shard=shard.h5", "title=psld by em-10", f"output={output}", *overrides)
    succeeded(call(folder, "gallery", *arguments))
    with Image.open(output) as image:
        return np.asarray(image.convert("RGB"))


def plain(*colours: tuple[int, int, int]) -> np.ndarray:
    """4×4 images of one colour each."""
    return np.broadcast_to(np.array(colours, np.uint8)[:, :, None, None], (len(colours), 3, 4, 4))


def holds(pixels: np.ndarray, colour: tuple[int, int, int]) -> bool:
    """Whether at least a hundredth of the picture has this colour."""
    return bool((pixels == colour).all(axis=-1).mean() > 0.01)


def test_a_gallery_shows_the_first_images_row_by_row(tmp_path):
    red, green, blue, grey = (200, 0, 0), (0, 200, 0), (0, 0, 200), (90, 90, 90)
    pixels = gallery(tmp_path, plain(red, green, blue, grey), "rows=1", "columns=3")
    assert [holds(pixels, colour) for colour in (red, green, blue, grey)] == [1, 1, 1, 0]
    row = pixels[int(0.8 * len(pixels))]
    left, middle, right = (
        np.flatnonzero((row == colour).all(axis=-1)).mean() for colour in (red, green, blue)
    )
    assert left < middle < right
    # 8 inches, less the margins, at 150 dots an inch.
    assert pixels.shape[1] == pytest.approx(0.8 * 8 * 150, rel=0.1)


def test_a_gallery_of_grey_images_and_of_few(tmp_path):
    images = np.full((3, 1, 8, 8), 90, np.uint8)
    pixels = gallery(tmp_path, images)
    assert holds(pixels, (90, 90, 90))


def test_a_gallery_needs_a_shard(tmp_path):
    for path, words in (("missing.h5", "no such shard"), ("damaged.h5", "damaged shard")):
        (tmp_path / "damaged.h5").write_bytes(b"not HDF5")
        arguments = (f"shard={path}", "title=x", "output=x.png")
        refused(call(tmp_path, "gallery", *arguments), 2, path, words)
    assert not (tmp_path / "x.png").exists()
