"""Templates in grid files: which entries they stand for."""

from typing import Any

import pytest
import yaml

from psld.config.settings import parse
from psld.grid.reading import expand_templates
from psld.grid.schema import GridFile
from psld.utils.errors import UserError

SWEEP = """
metric: fd-classifier
samples: 100
shard_size: 100
batch_size: 100
gallery: em-10
lists: {gamma: [0, 0.01, 1e-3], steps: [10, 40], seed: [1, 2]}
models:
  cld: [process=cld]
  psld-{gamma}: [process=psld, "process.gamma={gamma}"]
  both-{gamma}-{seed}: {overrides: ["process.gamma={gamma}", "training.seed={seed}"]}
samplers:
  em: {overrides: [sampler=em], budget: sampler.steps}
labels: {"psld-{gamma}": "PSLD Γ = {gamma}"}
figures: {"first-{gamma}": "psld-{gamma}/em-10"}
tables:
  sweep:
    title: A sweep
    headings: [model]
    cell: {sampler: em, model: "psld-{gamma}"}
    columns: [{label: "{steps} steps", budget: "{steps}"}, {label: NFE, budget: 10, show: nfe}]
    rows: [{label: ["Γ = {gamma}"]}, {label: [CLD], model: cld}]
"""


def expanded(text: str = SWEEP, **changes: Any) -> GridFile:
    return parse(GridFile, expand_templates(yaml.safe_load(text) | changes, "mine"), where="mine")


def test_a_name_stands_for_one_with_each_value():
    """Of several placeholders, the last changes fastest."""
    file = expanded()
    assert list(file.models) == [
        *("cld", "psld-0", "psld-0.01", "psld-1e-3"),
        *("both-0-1", "both-0-2", "both-0.01-1", "both-0.01-2", "both-1e-3-1", "both-1e-3-2"),
    ]
    assert file.models["psld-0.01"].overrides == ("process=psld", "process.gamma=0.01")
    assert file.models["both-0.01-2"].overrides == ("process.gamma=0.01", "training.seed=2")
    assert file.figures["first-0.01"] == ("psld-0.01/em-10",)
    assert [file.label(name) for name in ("psld-0.01", "cld")] == ["PSLD Γ = 0.01", "cld"]


def test_rows_and_columns_pass_their_values_on_to_their_cells():
    file = expanded()
    [table] = file.tables.values()
    assert [column.label for column in table.columns] == ["10 steps", "40 steps", "NFE"]
    labels = [row.label[0] for row in table.rows]
    assert labels == ["Γ = 0", "Γ = 0.01", "Γ = 1e-3", "CLD"]
    cells = [[entry.cell for entry in row] for row in file.shown["sweep"]]
    assert cells[1] == ["psld-0.01/em-10", "psld-0.01/em-40", "psld-0.01/em-10"]
    assert cells[3] == ["cld/em-10", "cld/em-40", "cld/em-10"]


def test_a_table_may_be_a_template_around_others():
    table = yaml.safe_load(SWEEP)["tables"]["sweep"]
    tables = expanded(tables={"sweep-{steps}": table | {"title": "{steps} steps, {gamma}"}}).tables
    assert list(tables) == ["sweep-10", "sweep-40"]
    assert tables["sweep-40"].title == "40 steps, {gamma}", "not in the table's name"
    # The value of {steps} is set; what is left is one column of it, and one of NFE.
    assert [column.label for column in tables["sweep-40"].columns] == ["40 steps", "NFE"]
    assert len(tables["sweep-10"].rows) == 4


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"lists": [1]}, "mine: lists: must map names to lists of values"),
        ({"lists": {"gamma": 3}}, "mine: lists.gamma: must be a list of names or"),
        ({"lists": {"gamma": [{"a": 1}]}}, "mine: lists.gamma: must be a list of names or"),
        ({"models": {"psld-{gama}": []}}, "mine: models: psld-{gama}: no list 'gama'; there are: "),
        ({"models": {"a{seed}": [], "a1": []}}, "mine: models: two entries are called a1"),
    ],
)
def test_a_wrong_template_is_refused(changes, complaint):
    with pytest.raises(UserError, match=complaint):
        expanded(**changes)


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ('["Γ = {gamma}"]', '["Γ = {gama}"]', "tables.sweep.rows: .*: no list 'gama'; there are"),
        (
            'budget: "{steps}"',
            'budget: "{step}"',
            "budget '{step}' has an unknown placeholder; .*: g",
        ),
        ('["Γ = {gamma}"]', "[all]", "model 'psld-{gamma}' has an unknown placeholder; .* steps"),
    ],
)
def test_a_placeholder_without_a_value_is_refused(old, new, complaint):
    with pytest.raises(UserError, match=complaint):
        expanded(SWEEP.replace(old, new))
