"""Guided cells in the workflow: their inputs, their outputs, and when they are made again."""

import csv
import re
import shutil

import numpy as np
import pytest

from psld.grid.cache import load_grid
from psld.sampling.shards import Shard
from psld.utils.errors import UserError
from tests.data.formats import idx_files, random_images, write_files
from tests.workflow.project import GRID, Project

GUIDED = """
defaults: [dataset=digits, network=tiny, training=tiny, wandb.mode=disabled]
metric: fd-classifier-tiny
samples: 20
shard_size: 10
batch_size: 10
seed: 0
gallery: em-3

models:
  psld: [process=psld]
  classes: [process=psld, training.label_dropout=0.2]

guides:
  guide:
    - dataset=digits
    - process=psld
    - network=guide-demo
    - training=guide-demo
    - training.steps=2
    - wandb.mode=disabled

samplers:
  em: {overrides: [sampler=em], budget: sampler.steps}
  guided:
    overrides: [sampler=em, guidance@sampler.guidance=classifier]
    guide: guide
    budget: sampler.steps
  free: {overrides: [sampler=em, guidance@sampler.guidance=classifier-free], budget: sampler.steps}
  digits:
    overrides: [sampler=em, guidance@sampler.guidance=inpainting, mask@sampler.guidance.mask=digits]
    budget: sampler.steps

figures:
  tiny-classes: classes/free-3
  tiny-holes: psld/digits-3

tables:
  tiny-guided:
    title: "Tiny: guided"
    headings: [guidance]
    cell: {budget: 3}
    columns:
      - {label: distance}
      - {label: class accuracy, show: class_accuracy}
    rows:
      - {label: [guide], model: psld, sampler: guided}
      - {label: [classifier-free], model: classes, sampler: free}
  tiny-inpainted:
    title: "Tiny: inpainted"
    headings: [mask]
    cell: {budget: 3, model: psld}
    columns: [{label: distance}]
    rows:
      - {label: [digits], sampler: digits}
      - {label: [none], sampler: em}
"""

WHOLE = {
    "prepare": 2,
    "train_extractor": 1,
    "reference": 1,
    "train": 2,
    "train_guide": 1,
    "sample": 5,
    "evaluate": 4,
    "tabulate": 2,
    "figure": 6,
    "page": 1,
    "certify": 1,
}
"""The jobs of the whole grid: one samples both shards of each of four cells, and one what is only
shown. The figures are the grid's own two, a plot, two galleries, and a comparison."""


def set_up(project: Project) -> Project:
    """The guided grid instead of the tests' usual one, with a small MNIST."""
    (project.folder / GRID).write_text(GUIDED)
    labels = np.zeros(12, np.uint8)
    digits = (random_images(12, 28, 28), labels)
    write_files(project.folder / "downloads" / "mnist", idx_files(digits, digits))
    return project


def test_a_dry_run_lists_the_guide_and_the_digits_of_the_masks(fresh):
    project = set_up(fresh)
    assert project.plan("tiny") == WHOLE
    inpainted = {"prepare": 2, "train_extractor": 1, "reference": 1, "train": 1}
    assert project.plan("tiny/psld/digits-3") == {**inpainted, "sample": 1, "evaluate": 1}


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("guide: guide", "guide: other", "samplers.guided.guide: no guide"),
        ("    guide: guide\n", "", "samplers.guided.guide: no guide None"),
        ("- process=psld", "- process=cld", "noised by another process"),
        ("model: classes, sampler: free", "model: psld, sampler: free", "class-conditional model"),
        ("holes: psld/digits-3", "holes: psld/digit-3", "figures.tiny-holes"),
        (
            "columns: [{label: distance}]",
            "columns: [{label: x, show: class_accuracy}]",
            "class_accuracy needs samples guided to a class",
        ),
    ],
)
def test_a_grid_whose_parts_do_not_fit_is_refused_in_one_line(
    fresh, old, new, complaint, monkeypatch
):
    project = set_up(fresh)
    project.edit(GRID, old, new)
    monkeypatch.chdir(project.folder)
    with pytest.raises(UserError, match=re.escape(complaint)) as refused:
        load_grid("tiny")
    assert str(refused.value).startswith(str(project.folder / GRID))
    assert "\n" not in str(refused.value)


@pytest.mark.slow
def test_guided_cells_from_nothing_to_tables_and_when_they_are_made_again(fresh):
    project = set_up(fresh)
    project.run("tiny")
    assert project.plan("tiny") == {}
    results = project.folder / "results"
    with (results / "tables" / "tiny" / "tiny-guided.csv").open() as file:
        shown = [row["ours"] for row in csv.DictReader(file) if row["shows"] == "class_accuracy"]
    assert len(shown) == 2
    assert all(0 <= float(value) <= 1 for value in shown)
    for figure in ("tiny-classes", "tiny-holes"):
        assert (results / "figures" / "tiny" / f"{figure}.png").stat().st_size > 1000
    [path] = (project.folder / "samples/tiny/psld/digits-3").glob("00001.*")
    shard = Shard.load(path)
    assert shard.masks.shape == (10, 8, 8)

    project.edit(GRID, "training.steps=2", "training.steps=3")
    guided = {"sample": 1, "evaluate": 1, "tabulate": 1, "page": 1, "certify": 1}
    assert project.plan("tiny") == {"train_guide": 1, **guided}
    project.edit(GRID, "training.steps=3", "training.steps=2")
    project.edit(
        GRID,
        "[sampler=em, guidance@sampler.guidance=classifier]",
        "[sampler=em, guidance@sampler.guidance=classifier, sampler.guidance.scale=3]",
    )
    assert project.plan("tiny") == guided
    project.edit(GRID, ", sampler.guidance.scale=3", "")
    assert project.plan("tiny") == {}

    # The same content prepared again, and what was made of it before, are as good as new.
    project.run("--force", "data/mnist.h5")
    assert project.plan("tiny") == {}
    shutil.rmtree(project.folder / "guides")
    project.run("tiny")
    assert project.plan("tiny") == {}
