"""A row of images without a model of ours in the workflow: its file is an input of its result."""

import numpy as np
import pytest

from tests.workflow.project import GRID, Project


def write_images(project: Project, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (30, 8, 8, 1), dtype=np.uint8)
    (project.folder / "downloads").mkdir(exist_ok=True)
    np.savez(project.folder / "downloads/edm.npz", arr_0=pixels)


@pytest.mark.slow
def test_images_are_measured_and_their_change_is_seen(fresh):
    row = "      - {label: [EDM], images: downloads/edm.npz}\n"
    fresh.edit(GRID, "  tiny-tolerance:\n", f"{row}  tiny-tolerance:\n")
    assert "downloads/edm.npz" in fresh.snakemake("tiny-steps", "--dry-run").stdout
    write_images(fresh, seed=0)
    fresh.run("tiny-steps")
    table = (fresh.folder / "results/tables/tiny/tiny-steps.md").read_text()
    assert "| EDM" in table
    assert "not been run" not in table
    assert fresh.plan("tiny-steps") == {}
    write_images(fresh, seed=1)
    assert fresh.plan("tiny-steps") == {"evaluate_images": 1, "tabulate": 1}
