"""Bits per dimension in a grid: entries of tables that are about a model, without a sampler."""

import copy
from typing import Any

import pytest
import yaml

from psld.config.settings import parse, write_record
from psld.grid import paths
from psld.grid.entries import read_table
from psld.grid.results import LikelihoodResult
from psld.grid.workflow import Workflow
from psld.report.formats import as_csv, markdown, record
from psld.report.origins import origins_of
from psld.report.table import text_of
from psld.utils.errors import UserError
from tests.results import SOFTWARE, WEIGHTS, write_grid, write_result

GRID: dict[str, Any] = yaml.safe_load("""
defaults: [dataset=digits, network=demo, training=demo]
metric: fd-classifier
samples: 100
shard_size: 50
batch_size: 50
gallery: em-10
likelihood: [draws=4, tolerance=1e-3]
models:
  vp-sde: [process=vp-sde]
  psld: [process=psld]
samplers:
  em: {overrides: [sampler=em], budget: sampler.steps}
tables:
  bits:
    title: Mine
    headings: [model]
    band: {absolute: 0.1, relative: 0.0, reason: Chosen for this test.}
    cell: {sampler: em}
    columns:
      - {label: "10", budget: 10}
      - {label: bits/dim, show: bits_per_dimension}
    rows:
      - {label: [VP-SDE], model: vp-sde}
      - {label: [PSLD], model: psld, paper: [null, 3.3]}
      - {label: [another], literature: true, paper: [null, 2.99]}
""")


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return tmp_path_factory.mktemp("project")


@pytest.fixture(scope="module")
def grid(project):
    return write_grid(project, GRID)


def write_likelihood(folder, grid, model: str, bits: float, **given: Any) -> None:
    content = {
        "bits_per_dimension": bits,
        "low": bits - 0.02,
        "high": bits + 0.02,
        "measured": 360,
        "likelihood": grid.likelihood,
        "evaluations": 120.5,
        "gradients": 120.5,
        "seconds": 3.0,
        "device": "CPU",
        "dataset_digest": "0" * 64,
        "model": {"name": model, "settings": grid.models[model].settings, **WEIGHTS},
        **SOFTWARE,
    }
    result = parse(LikelihoodResult, content | given, where=model)
    write_record(folder / paths.likelihood(grid.name, model), result)


def test_an_entry_needs_a_model_and_no_sampler(grid):
    evaluations = [[place.evaluation for place in row] for row in grid.file.places["bits"]]
    assert [[e and e.cell for e in row] for row in evaluations] == [
        ["vp-sde/em-10", None],
        ["psld/em-10", None],
        [None, None],
    ]
    assert grid.file.likelihood_models() == ["vp-sde", "psld"]
    assert grid.likelihood.draws == 4
    assert grid.cells == ["vp-sde/em-10", "psld/em-10"]


def test_a_table_reads_the_likelihoods_that_it_shows(grid):
    inputs = Workflow({"mine": grid}).results_of_tables("mine", "bits")
    assert inputs[2:] == [
        "results/cells/mine/vp-sde/likelihood.json",
        "results/cells/mine/psld/likelihood.json",
    ]


def test_a_table_shows_what_has_been_measured(grid, tmp_path):
    cells = tmp_path / "results" / "cells" / "mine"
    write_result(tmp_path, grid, "vp-sde/em-10", value=2.0)
    write_likelihood(tmp_path, grid, "psld", 3.3512)
    rows = read_table(grid, "bits", cells)
    table = grid.file.tables["bits"]
    text = text_of(table, rows)
    assert [line[2] for line in text.lines] == ["–", "3.35 ± 0.02 (3.30, +0.05 ✓)", "2.99†"]
    assert "over 360 images (test split) ± half of the 95 % interval" in markdown(text)
    assert "3.3512" in as_csv(grid, table, rows)
    assert rows[0][1].status == "not run"
    bits = [line for line in text.details if line[1] == "bits/dim"]
    assert [line[:3] + line[10:11] for line in bits] == [
        ["VP-SDE", "bits/dim", "–", "–"],
        ["PSLD", "bits/dim", "3.35", "360"],
    ]
    assert record(grid, table, rows[1][1])["samples"] == 360
    models, *_ = origins_of(grid, [entry for row in rows for entry in row])
    assert [line[0] for line in models.lines] == ["vp-sde", "psld"]
    write_likelihood(tmp_path, grid, "psld", 3.0, likelihood={**dict(grid.likelihood), "draws": 1})
    assert read_table(grid, "bits", cells)[1][1].status == "not run", "it has other settings"


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"likelihood": ["drws=4"]}, "likelihood: .*drws"),
        ({"models": {"vp-sde": ["process=vp-sde"]}}, "names the model 'psld'"),
        ({"rows": [{"label": ["none"]}]}, "no model for"),
    ],
)
def test_what_is_wrong_is_refused(tmp_path, change, complaint):
    content = copy.deepcopy(GRID)
    if "rows" in change:
        content["tables"]["bits"] |= change
        content["tables"]["bits"]["columns"].pop(0)
    else:
        content |= change
    with pytest.raises(UserError, match=complaint):
        write_grid(tmp_path, content)
