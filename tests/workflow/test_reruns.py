"""The triggers of reruns: dry runs after one real run of the whole grid."""

import json
import os
import time

import numpy as np
import pytest

from psld.data.store import ImageStore, write_store
from tests.results import sealed
from tests.workflow.project import GRID, WHOLE_GRID

pytestmark = pytest.mark.slow

RESULTS = {"evaluate": 4, "tabulate": 2, "page": 1, "certify": 1}
SAMPLES = {"sample": 8, **RESULTS, "figure": 5}
MODELS = {"train": 2, **SAMPLES, "figure": 6}

LARGE = 20_000
"""Size in bytes above which the test of large files compares no contents."""

VP_SDE, PSLD = "  vp-sde: [process=vp-sde]", "  psld: [process=psld]"

COLUMN = '- {label: "3", budget: 3}'

LAST_ROW = "show: nfe}\n    rows:\n      - {label: [VP-SDE], model: vp-sde}"


def test_edits_without_effect_on_results_rerun_nothing(finished):
    """Identical data that is prepared again and touched files rerun nothing, even if all inputs are
    newer than their outputs and some files are large.
    """
    data, training = finished.folder / "data/digits.h5", "configs/training/tiny.yaml"
    before = data.stat().st_mtime_ns
    finished.run("--force", "data/digits.h5")
    assert data.stat().st_mtime_ns > before
    edits = (
        (GRID, "# The tests' own grid", "# A comment"),
        (GRID, "batch_size: 10", "batch_size: 3"),
        (training, "checkpoint_every: 250", "checkpoint_every: 100"),
        (training, "log_every: 50", "log_every: 10\nmicro_batch: 4\ncompile: true"),
        (training, "preview_every: 500", "preview_every: null"),
        ("configs/sample.yaml", "device: auto", "device: cpu"),
        ("configs/dataset/digits.yaml", "# Mirrored digits are", "# Comment: mirrored digits are"),
        ("psld/commands/training.py", '"""Commands that create', '"""Programs that create'),
        ("psld/sampling/settings.py", '"""Settings of sampling,', '"""Another docstring,'),
        ("profiles/default/config.yaml", "file-size: 100000000", f"file-size: {LARGE}"),
    )
    for edit in edits:
        finished.edit(*edit)
    for caption in finished.files("workflow/report"):
        caption.write_text("Another caption.")
    for path in (data, finished.folder / "models/tiny/psld/weights.safetensors"):
        assert path.stat().st_size > LARGE
    now = time.time()
    stages = ("results", "samples", "models", "features", "data")
    for age, stage in enumerate(reversed(stages)):
        for path in finished.files(stage):
            os.utime(path, (now - age, now - age))
    assert finished.plan("tiny") == {}


def test_changed_images_rerun_everything_that_depends_on_them(finished):
    """The images change as by `psld prepare replace=true` after pictures were added to a folder."""
    data, record = finished.folder / "data/digits.h5", finished.folder / "data/digits.json"
    store, said = ImageStore.open(data), json.loads(record.read_text())
    parts = store.splits, store.labels("all")[::-1].copy(), store.num_classes
    digest = write_store(data, store.shape, *parts, [np.array(store.images("all"))])
    record.write_text(sealed(said | {"digest": digest}))
    data.with_suffix(".digest").write_text(f"{digest}\n")
    assert finished.plan("tiny") == {
        stage: n for stage, n in WHOLE_GRID.items() if stage != "prepare"
    }


DIGITS = "configs/dataset/digits.yaml"

RK45 = (GRID, "[sampler=rk45]", "[sampler=rk45, sampler.final_time=1e-2]")
TITLE = (GRID, 'title: "Tiny: steps"', "title: Steps")
GAMMA = (GRID, "[process=psld]", "[process=psld, process.gamma=0.02]")
EXTRACTOR = ("configs/metric/fd-classifier-tiny.yaml", "steps: 5", "steps: 6")
FEWER = (GRID, COLUMN, f"{COLUMN}\n      - {{label: few, budget: 3, samples: 5}}")
LABELS = (GRID, "defaults:", "labels: {em: Euler–Maruyama}\ndefaults:")
QUESTION = (GRID, "defaults:", "question: Which one?\ndefaults:")
COUNTS = (GRID, COLUMN, COLUMN.replace("}", ", show: nfe}"))
ORDER = (GRID, f"{VP_SDE}\n{PSLD}", f"{PSLD}\n{VP_SDE}")
NUMBER = (GRID, LAST_ROW, LAST_ROW.replace("model:", "paper: [3.0, 20], model:"))


@pytest.mark.parametrize(
    ("edits", "plan"),
    [
        pytest.param(
            [RK45, TITLE],
            {"sample": 4, "evaluate": 2, "tabulate": 2, "figure": 2, "page": 1, "certify": 1},
            id="a setting of a sampler: its cells in one table; a title: the other table",
        ),
        pytest.param(
            [GAMMA, EXTRACTOR],
            {"train_extractor": 1, "reference": 1, "train": 1, "sample": 4, **RESULTS, "figure": 4},
            id="a setting of a model: this model; an extractor: no sampling of the other model",
        ),
        pytest.param(
            [FEWER, NUMBER],
            {"evaluate": 2, "tabulate": 2, "page": 1, "certify": 1},
            id="fewer samples of a cell: the same shards; a paper value: its table",
        ),
        pytest.param(
            [(DIGITS, "flip: false", "flip: true")],
            MODELS,
            id="mirroring of the training images: all models",
        ),
        pytest.param(
            [(GRID, "shard_size: 5", "shard_size: 2")],
            {**SAMPLES, "sample": 20},
            id="the shard size: all samples",
        ),
        pytest.param(
            [LABELS],
            {"figure": 6, "tabulate": 2, "page": 1, "certify": 1},
            id="a label: the tables and figures that show it",
        ),
        pytest.param(
            [QUESTION, COUNTS, ORDER],
            {"figure": 2, "tabulate": 1, "page": 1, "certify": 1},
            id="the question: the page; another kind of number: its table; the order of the models:"
            " pictures that show both",
        ),
    ],
)
def test_change_reruns_its_dependents(finished, edits, plan):
    """Each of two changes reruns jobs that the other change does not rerun."""
    for edit in edits:
        finished.edit(*edit)
    assert finished.plan("tiny") == plan


def test_new_cells_and_paper_values_rerun_their_plot(finished):
    """The plot of the trainings is not redrawn."""
    finished.edit(GRID, COLUMN, f'{COLUMN}\n      - {{label: "4", budget: 4}}')
    cells = {"sample": 4, "evaluate": 2, "tabulate": 1, "figure": 3, "page": 1, "certify": 1}
    assert finished.plan("tiny") == cells
    finished.run_in_one_process("tiny")
    first_row = '- {label: "4", budget: 4}\n    rows:\n      - {label: [VP-SDE], '
    finished.edit(GRID, first_row, f"{first_row}paper: [3.0, 2.0], ")
    assert finished.plan("tiny") == {"tabulate": 1, "figure": 1, "page": 1, "certify": 1}


def test_changed_dataset_needs_one_run(finished):
    finished.edit("configs/dataset/digits.yaml", "image_size: 8", "image_size: 4")
    finished.edit("configs/dataset/digits.yaml", "filter: null", "filter: box")
    finished.run("tiny/psld/em-3")
    assert finished.plan("tiny/psld/em-3") == {}
