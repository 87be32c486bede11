"""Results of another revision of psld are counted, but not recomputed."""

import pytest

from psld.evaluation.results import CellResult, Weights
from psld.models.manifest import read_manifest
from psld.report import table
from psld.report.table import made_by_other_code
from psld.utils import VERSION


@pytest.fixture(autouse=True)
def here(monkeypatch):
    monkeypatch.setattr(table, "git_revision", lambda: "now")


def result(cell: str, made: str | None, trained: str | None, weights: str = "w") -> CellResult:
    model = Weights.model_construct(weights_sha256=weights, git_revision=trained)
    versions = {"psld": "0.0" if made == "older" else VERSION}
    made_by = {"versions": versions, "git_revision": made, "guide": None}
    return CellResult.model_construct(kept_sha256=cell, model=model, **made_by)


@pytest.mark.parametrize(
    ("results", "note"),
    [
        ([("a", "now", "now")], []),
        ([("a", None, None)], []),
        ([("a", "then", "now"), ("b", "older", "now")], ["2 cells"]),
        ([("a", "now", "then"), ("b", "now", "then")], ["1 model"]),
        ([("a", "then", "then", "v"), ("b", "now", "then", "w")], ["2 models, 1 cell"]),
    ],
)
def test_models_and_cells_of_each_revision_are_counted_once(results, note):
    said = [f"Made by another revision of psld than the current revision: {each}." for each in note]
    assert list(made_by_other_code(result(*each) for each in results)) == said


def test_the_identity_of_a_model_includes_the_git_revision(model):
    manifest = read_manifest(model)
    assert manifest.identity()["git_revision"] == manifest.git_revision
