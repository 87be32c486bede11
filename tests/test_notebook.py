"""docs/tour.ipynb: the outputs are complete, and the cells run with hardly trained models.

`make check-demo` runs the cells on the demo's models and compares the distances with the outputs.
"""

import contextlib
import json
import shutil
from typing import Any

import pytest

from tests.commands import TINY, call, succeeded
from tests.workflow.project import REPOSITORY

CELLS = json.loads((REPOSITORY / "docs" / "tour.ipynb").read_text())["cells"]
CODE = [cell for cell in CELLS if cell["cell_type"] == "code"]


def run_cells() -> dict[str, Any]:
    """Run the cells one after the other, as Jupyter does in docs/, and return their variables."""
    names: dict[str, Any] = {}
    with contextlib.chdir("docs"):
        for cell in CODE:
            exec("".join(cell["source"]), names)
    return names


def printed() -> str:
    """Return the committed text outputs."""
    outputs = [output for cell in CODE for output in cell["outputs"]]
    return "".join(line for output in outputs for line in output.get("text", []))


def test_the_committed_outputs_are_complete_and_small():
    """Websites show the committed outputs. The outputs come from one run of all cells from top to
    bottom."""
    assert [cell["execution_count"] for cell in CODE] == list(range(1, len(CODE) + 1))
    shows = [cell for cell in CODE if "show(" in "".join(cell["source"])][1:]  # not its definition
    assert shows
    for cell in shows:
        assert any("image/png" in output.get("data", {}) for output in cell["outputs"])
    assert (REPOSITORY / "docs" / "tour.ipynb").stat().st_size < 400_000


@pytest.mark.slow
def test_the_tour_runs(digits, model, features, tmp_path, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "agg")
    settings = (*TINY, "training.objective=denoiser", "training.steps=30", f"data={digits}")
    succeeded(call(tmp_path, "train", *settings, "output=models/demo/denoiser-psld"))
    shutil.copytree(model, tmp_path / "models" / "demo" / "psld-0.02")
    shutil.copytree(features, tmp_path / "features" / "digits" / "fd-classifier")
    for name in ("data", "docs"):
        (tmp_path / name).mkdir()
    for end in (".h5", ".json"):
        shutil.copy(digits.with_suffix(end), tmp_path / "data" / f"digits{end}")
    monkeypatch.chdir(tmp_path)
    names = run_cells()
    assert [f"{name}: " in printed() for name in names["distances"]] == [True] * 4
    half = names["x0"].shape[-1] // 2
    difference = names["filled"][..., :half].int() - names["mine"][..., :half].int()
    assert difference.abs().max() <= 1, "known pixels are kept"
    assert len(list((tmp_path / "outputs" / "pictures").glob("*.png"))) == 8
