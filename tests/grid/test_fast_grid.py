"""The grid of few evaluations, which samples models of the paper's grid."""

import pytest
import yaml

from psld.grid.loading import load_grid
from psld.grid.plan import jobs_of
from psld.grid.workflow import Workflow
from psld.utils.errors import UserError

MODEL = "cifar10-97m-psld-0.01"


@pytest.fixture(scope="module")
def fast():
    return load_grid("fast")


def test_it_trains_nothing_and_samples_the_papers_models(fast, paper):
    assert not {"train", "import"} & jobs_of(fast).keys()
    workflow = Workflow({"fast": fast, "paper": paper})
    file = workflow.model_file("fast", MODEL, "manifest.json")
    assert file == f"models/paper/{MODEL}/manifest.json"
    assert f"fast/{MODEL}" not in workflow.name_pattern("models", imported=False).replace("\\", "")
    for name, model in fast.models.items():
        assert model.settings == paper.models[name].settings


def test_its_own_numbers_have_nothing_to_reproduce(fast):
    for table in fast.file.tables.values():
        assert table.band is None
        assert [row for row in table.rows if row.paper and not row.literature] == []


def test_a_model_that_no_other_grid_trains_is_refused(tmp_path, monkeypatch):
    grid = {
        "metric": "fd-classifier", "samples": 10, "shard_size": 10, "batch_size": 10,
        "gallery": "em-10", "models": {"none": {"of": "paper"}}, "samplers": {}, "tables": {},
    }  # fmt: skip
    (tmp_path / "configs" / "grid").mkdir(parents=True)
    (tmp_path / "configs" / "grid" / "mine.yaml").write_text(yaml.safe_dump(grid))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"models.none: .*paper.yaml trains no model of this name"):
        load_grid("mine")
