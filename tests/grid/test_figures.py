"""The figures of a grid, determined from its cells without any result."""

from dataclasses import replace
from typing import Any

import pytest

from psld.grid.cells import Grid
from psld.grid.figures import all_figures, nfe_lines, plot_entries
from psld.grid.records import ModelRecord
from psld.grid.rows import decisive_content, distances, entries_in, paper_values
from psld.grid.schema import GridFile
from tests.grid.mine import SHOWN, file_with, grid_in, written_once

DATA = "data/digits.h5"


@pytest.fixture(scope="module")
def grid(once) -> Grid:
    return grid_in(written_once(once, "shown", SHOWN))


def test_a_plot_needs_the_results_of_its_cells_once(grid):
    plots = {n: [entry.number for entry in plot] for n, plot in plot_entries(grid).items()}
    counts = {"nfe": 10, "gamma": 6, "training": 0}
    assert {name: len(numbers) for name, numbers in plots.items()} == counts
    assert {name: len(set(numbers)) for name, numbers in plots.items()} == counts


def test_imported_models_have_no_training_curve(grid):
    models = {n: m.model_copy(update={"checkpoint": "x.ckpt"}) for n, m in grid.models.items()}
    assert plot_entries(replace(grid, models=models)).keys() == {"nfe", "gamma"}


def test_a_grid_has_plots_samples_comparisons_and_the_figures_of_its_file(grid):
    shown = {"mine": ("cld/holes-10",), "one": ("low/em-10",), "two": ("cld/em-10", "low/em-10")}
    file = grid.file.model_copy(update={"figures": shown})
    figures = all_figures(replace(grid, file=file))
    models = ["vp-sde", "cld", "low", "high", "longer"]
    assert {name: figure.kind for name, figure in figures.items()} == {
        **dict.fromkeys(["nfe", "gamma", "training"], "plot"),
        **{f"samples/{model}": "samples" for model in models},
        **dict.fromkeys(["models/digits", *(f"samplers/{m}" for m in models[:4])], "comparison"),
        **dict.fromkeys(["mine", "one"], "samples"),
        "two": "comparison",
    }
    assert next(iter(figures)) == "two", "a page begins with it"
    assert all(figure.name == name for name, figure in figures.items())
    cells = {
        "samples/low": {"": "low/em-10"},
        "one": {"": "low/em-10"},
        "two": {"cld": "cld/em-10", "low": "low/em-10"},
        "models/digits": {model: f"{model}/em-10" for model in models},
        # Of unguided samplers, in the order of the file and of their costs.
        "samplers/cld": {
            "em, 10 steps": "cld/em-10",
            "em, 20 steps": "cld/em-20",
            "rk45, tolerance 1e-2": "cld/rk45-1e-2",
            "rk45, tolerance 1e-3": "cld/rk45-1e-3",
        },
    }
    for name, expected in cells.items():
        shown = {label: cell.name for label, cell in figures[name].cells.items()}
        assert list(shown.items()) == list(expected.items())


def test_figures_name_what_their_cells_share_in_the_title_and_the_rest_at_the_rows(grid):
    labels = {"low": "PSLD", "em": "EM"}
    shown = {
        "models": ("cld/em-10", "low/em-10"),
        "samplers": ("low/em-10", "low/rk45-1e-2"),
        "both": ("cld/em-10", "low/em-20"),
    }
    file = grid.file.model_copy(update={"figures": shown, "labels": labels})
    figures = all_figures(replace(grid, file=file))
    assert {name: (figures[name].title, *figures[name].cells) for name in shown} == {
        "models": ("EM, 10 steps", "cld", "PSLD"),
        "samplers": ("PSLD", "EM, 10 steps", "rk45, tolerance 1e-2"),
        "both": ("One model and sampler per row", "cld\nEM, 10 steps", "PSLD\nEM, 20 steps"),
    }
    assert figures["samples/low"].title == "PSLD · EM, 10 steps"
    assert figures["samples/low"].caption.startswith("The first samples, not chosen")
    file = file.model_copy(update={"labels": {"both": "What both show", "filled": "Filled in"}})
    titles = {name: figure.title for name, figure in all_figures(replace(grid, file=file)).items()}
    assert titles["both"] == "What both show"


def test_plots_have_the_models_in_their_panels_if_these_are_fewer(grid):
    """Two samplers take fewer panels than four models; one model takes fewer than two samplers."""
    assert [group.panel for group in nfe_lines(grid)] == ["em", "rk45"]
    content = grid.file.model_dump()
    for table in content["tables"].values():
        table["rows"] = table["rows"][:1]
    [alone] = nfe_lines(replace(grid, file=GridFile.model_validate(content)))
    assert (alone.panel, list(alone.lines)) == ("cld", ["em", "rk45"])


def test_only_pictures_stand_next_to_images_of_their_datasets(grid):
    figures = all_figures(grid)
    datasets = {name: figures[name].datasets for name in ("nfe", "samples/cld", "models/digits")}
    assert datasets == {"nfe": [], "samples/cld": [DATA], "models/digits": [DATA]}


# --- what decides numbers -------------------------------------------------------------------------


def names_of_changes(grid: Grid, **changes: Any) -> set[str]:
    """The parts that differ if a grid's file is changed."""
    before, after = decisive_content(grid), decisive_content(file_with(grid, **changes))
    return {key for key in before | after if before.get(key) != after.get(key)}


def with_table(grid: Grid, **changes: Any) -> dict[str, Any]:
    """The tables of its file, of which one is changed."""
    tables = grid.file.model_dump()["tables"]
    tables["mine"] |= changes
    return tables


def test_each_part_that_decides_numbers_is_named(grid):
    models = {k: m.model_copy(update={"gallery": "em-10"}) for k, m in grid.file.models.items()}
    pictures = {"gallery": "em-20", "figures": {}, "models": models}
    assert names_of_changes(grid, shards_per_job=3, batch_size=1, **pictures) == set()
    assert names_of_changes(grid, shard_size=10) == {"grid"}
    first, *rows = grid.file.model_dump()["tables"]["mine"]["rows"]
    other = with_table(grid, rows=(first | {"paper": (4.0, 7.0, 10)}, *rows))
    assert names_of_changes(grid, tables=other) == {"tables.mine: EM CLD, 10"}
    band = {"absolute": 1, "relative": 0, "reason": "A test."}
    other = with_table(grid, band=band, title="Another")
    assert names_of_changes(grid, tables=other) == {"tables.mine"}
    twice = decisive_content(file_with(grid, tables=with_table(grid, rows=(first, *rows, first))))
    assert twice["tables.mine: EM CLD, 10 (again)"] == twice["tables.mine: EM CLD, 10"]


def test_all_that_decides_a_model_is_a_part(grid):
    def part(low: ModelRecord) -> dict[str, Any]:
        return decisive_content(replace(grid, models=grid.models | {"low": low}))["models.low"]

    own = grid.models["low"]
    for name, record in (("gamma", grid.models["high"]), ("steps", grid.models["longer"])):
        assert part(record) != part(own), name
    first, second = (
        part(own.model_copy(update={"checkpoint": f"{place}/x.ckpt"})) for place in ("a", "b")
    )
    assert first == second != part(own), "the file's place decides nothing"


def test_numbers_of_the_paper_are_those_of_a_cell_and_a_measurement(grid):
    printed = {(c.name, m.samples): each for (c, m), each in paper_values(grid).items()}
    assert printed == {
        ("cld/em-20", 100): {"value": 4.0},
        ("cld/em-10", 100): {"value": 8.0, "nfe": 10},
        ("high/em-20", 100): {"value": 3.0},
        ("high/em-10", 100): {"value": 9.0, "nfe": 10},
        ("cld/em-20", 50): {"value": 6.0},
        ("cld/rk45-1e-2", 100): {"value": 5.0, "nfe": 80},
        ("cld/rk45-1e-3", 100): {"value": 4.5},
    }
    shown = [(each.cell.name, each.samples) for each in distances(grid)]
    assert len(shown) == len(set(shown)) == 12
    assert {each.show for each in distances(grid)} == {"value"}
    assert len(list(entries_in(grid, "few"))) == 1
    assert len(list(entries_in(grid))) == 20
