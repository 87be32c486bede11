"""Templates in grid files: which entries they stand for."""

from typing import Any

import pytest
import yaml

from psld.config.settings import parse
from psld.grid.schema import GridFile
from psld.grid.templates import expand_templates
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
figures: {"first-{gamma}": "psld-{gamma}/em-10"}
tables:
  sweep:
    title: A sweep
    headings: [model]
    cell: {sampler: em, model: "psld-{gamma}"}
    columns: [{label: "{steps} steps", budget: "{steps}"}, {label: NFE, budget: 10, show: nfe}]
    rows: [{label: ["Γ = {gamma}"]}, {label: [CLD], model: cld}]
"""


def expanded(text: str = SWEEP, **changes: Any) -> dict[str, Any]:
    return expand_templates(yaml.safe_load(text) | changes, "mine")


def file_of(content: dict[str, Any]) -> GridFile:
    return parse(GridFile, content, where="mine")


def test_a_key_stands_for_one_with_each_value():
    models = file_of(expanded()).models
    assert list(models)[:4] == ["cld", "psld-0", "psld-0.01", "psld-1e-3"]
    assert models["psld-0.01"].overrides == ("process=psld", "process.gamma=0.01")
    assert expanded()["figures"]["first-0.01"] == "psld-0.01/em-10"


def test_several_placeholders_take_all_combinations_the_last_changing_fastest():
    content = expanded()["models"]
    both = [name.removeprefix("both-") for name in content if name.startswith("both-")]
    assert both == ["0-1", "0-2", "0.01-1", "0.01-2", "1e-3-1", "1e-3-2"]
    assert content["both-0.01-2"]["overrides"] == ["process.gamma=0.01", "training.seed=2"]


def test_rows_and_columns_pass_their_values_on_to_their_cells():
    file = file_of(expanded())
    [table] = file.tables.values()
    assert [column.label for column in table.columns] == ["10 steps", "40 steps", "NFE"]
    assert [row.label for row in table.rows] == [
        *(("Γ = 0",), ("Γ = 0.01",), ("Γ = 1e-3",)),
        ("CLD",),
    ]
    cells = [[place.number.cell for place in row] for row in file.places["sweep"]]
    assert cells[1] == ["psld-0.01/em-10", "psld-0.01/em-40", "psld-0.01/em-10"]
    assert cells[3] == ["cld/em-10", "cld/em-40", "cld/em-10"]


def test_a_table_may_be_a_template_around_others():
    table = yaml.safe_load(SWEEP)["tables"]["sweep"]
    content = expanded(tables={"sweep-{steps}": table | {"title": "{steps} steps, {gamma}"}})
    assert list(content["tables"]) == ["sweep-10", "sweep-40"]
    assert content["tables"]["sweep-40"]["title"] == "40 steps, {gamma}", "not in the table's name"
    # The value of {steps} is set; what is left is one column of it, and one of NFE.
    assert [c["label"] for c in content["tables"]["sweep-40"]["columns"]] == ["40 steps", "NFE"]
    assert len(content["tables"]["sweep-10"]["rows"]) == 4


def test_what_is_written_out_is_no_template():
    content = expanded()
    assert "lists" not in content
    assert expand_templates(content, "mine") == content


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"lists": [1]}, "mine: lists: lists of values by their names"),
        ({"lists": {"gamma": 3}}, "mine: lists.gamma: a list of names or numbers"),
        ({"lists": {"gamma": []}}, "mine: lists.gamma: a list of names or numbers"),
        ({"lists": {"gamma": [{"a": 1}]}}, "mine: lists.gamma: a list of names or numbers"),
        ({"models": {"psld-{gama}": []}}, "mine: models: psld-{gama}: no list 'gama'; there are: "),
        ({"models": {"a{seed}": [], "a1": []}}, "mine: models: two are called a1"),
    ],
)  # fmt: skip
def test_a_wrong_template_is_refused_in_one_line(changes, complaint):
    with pytest.raises(UserError, match=complaint):
        expanded(**changes)


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ('["Γ = {gamma}"]', '["Γ = {gama}"]', "tables.sweep.rows: .*: no list 'gama'; there are"),
        ('budget: "{steps}"', 'budget: "{step}"', "budget '{step}' has a placeholder .*: gamma, s"),
        ('["Γ = {gamma}"]', "[all]", "model 'psld-{gamma}' has a placeholder .* row and column: s"),
    ],
)
def test_a_placeholder_without_a_value_is_refused(old, new, complaint):
    with pytest.raises(UserError, match=complaint):
        file_of(expanded(SWEEP.replace(old, new)))
