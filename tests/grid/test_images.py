"""A row of a table that shows images without a model of ours, next to a model's cell."""

import contextlib

import numpy as np
import pytest

from psld.config.locations import CONFIGS
from psld.grid.entries import read_table
from psld.grid.workflow import Workflow
from psld.report.table import table_text
from psld.utils.errors import UserError
from tests.commands import call, succeeded
from tests.grid.mine import CONTENT, changed, load
from tests.results import write_result

EDM = {"label": ["", "EDM"], "images": "downloads/edm.npz"}
ROWS = [*CONTENT["tables"]["steps"]["rows"], EDM]


def test_images_are_measured_by_the_workflow_and_ranked_in_the_table(configs, digits, features):
    """As Snakemake would: the inputs and the command are those of the rule."""
    folder = configs.parent
    content = changed("tables/steps/rows", ROWS)
    content["tables"]["steps"]["columns"].append({"label": "NFE", "show": "nfe"})
    del content["tables"]["steps"]["rows"][2]
    (configs / "metric").mkdir()  # as the extractor was trained
    metric = (CONFIGS / "metric/fd-classifier.yaml").read_text().replace("steps: 300", "steps: 20")
    (configs / "metric/fd-classifier.yaml").write_text(metric)
    grid = load(configs, content)
    [images] = set(grid.images.values())
    workflow = Workflow({"mine": grid})
    w = type("Wildcards", (), {"grid": "mine", "table": "steps", "images": images.name})
    assert images.result in workflow.table_results(w)
    other = type("Wildcards", (), {"grid": "mine", "table": "tolerance"})
    assert images.result not in workflow.table_results(other)
    assert workflow.images(w) == images
    assert workflow.images_features(w) == ["features/digits/fd-classifier/reference/manifest.json"]

    random = np.random.default_rng(0)
    (folder / "downloads").mkdir()
    pixels = random.integers(0, 256, (120, 8, 8, 1), dtype=np.uint8)
    np.savez(folder / "downloads/edm.npz", arr_0=pixels)
    (folder / "features/digits").mkdir(parents=True)
    (folder / "features/digits/fd-classifier").symlink_to(features)
    words = [f"{key}={value}" for key, value in images.words.items()]
    named = (f"images={images.path}", f"output={images.result}")
    succeeded(call(folder, "evaluate", *named, *words))
    write_result(folder, grid, "psld/em-10", value=1.0, error=0.1)
    with contextlib.chdir(folder):
        rows = read_table(grid, "steps")
    psld, edm = rows[0][0], rows[2][0]
    assert (edm.samples, edm.nfe, edm.sampling_device) == (100, None, None)
    assert edm.value == edm.results[0].value > 1
    assert (psld.rank.name, edm.rank.paired) == ("best", False)
    assert edm.rank.p_value < 0.05
    assert rows[2][2].status == "literature", "images have no count of evaluations"
    shown = table_text(grid.file.tables["steps"], rows).lines[2]
    assert shown[2] == f"{edm.value:.2f} ± {edm.interval.half_width:.2f}"
    assert shown[4] == "–"


def test_the_dataset_is_the_grids_only_one_or_the_rows(configs):
    content = changed("tables/steps/rows", ROWS)
    content["models"]["other"] = ["dataset=mnist"]
    with pytest.raises(
        UserError, match=r"images downloads/edm.npz: give the row a dataset, one of"
    ):
        load(configs, content)
    content["tables"]["steps"]["rows"] = [*ROWS[:-1], EDM | {"dataset": "mnist"}]
    grid = load(configs, content)
    assert {each.dataset for each in grid.images.values()} == {"mnist"}
    assert "mnist/fd-classifier" in grid.features
