"""docs/tour.ipynb: its cells run one after the other, on models that are hardly trained."""

import contextlib
import json
import shutil

import pytest

from tests.commands import TINY, call, succeeded
from tests.workflow.project import REPOSITORY

CELLS = json.loads((REPOSITORY / "docs" / "tour.ipynb").read_text())["cells"]


def test_its_outputs_are_kept_and_small():
    """A reader on the web sees them; they are those of one run from top to bottom."""
    code = [cell for cell in CELLS if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    shows = [cell for cell in code if "show(" in "".join(cell["source"])][1:]  # not its definition
    assert shows
    assert all("image/png" in output["data"] for cell in shows for output in cell["outputs"])
    assert all(cell["outputs"] for cell in shows)
    assert (REPOSITORY / "docs" / "tour.ipynb").stat().st_size < 400_000


@pytest.mark.slow
def test_the_tour_runs(digits, model, features, tmp_path, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "agg")
    settings = (*TINY, "training.objective=denoiser", "training.steps=30", f"data={digits}")
    succeeded(call(tmp_path, "train", *settings, "output=models/demo/denoiser-psld"))
    shutil.copytree(model, tmp_path / "models" / "demo" / "psld-0.02")
    shutil.copytree(features, tmp_path / "features" / "digits" / "fd-classifier")
    (tmp_path / "docs").mkdir()
    names = {}
    with contextlib.chdir(tmp_path / "docs"):
        for cell in CELLS:
            if cell["cell_type"] == "code":
                exec("".join(cell["source"]), names)
    half = names["x0"].shape[-1] // 2
    difference = names["filled"][..., :half].int() - names["mine"][..., :half].int()
    assert difference.abs().max() <= 1, "known pixels are kept"
    assert len(list((tmp_path / "outputs" / "pictures").glob("*.png"))) == 8
