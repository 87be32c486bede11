"""A project with a tiny grid whose results were computed from random features, for certificates."""

import contextlib
import hashlib
import io
import json
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from psld.config.settings import write_record
from psld.evaluation.evaluation import Cost, GatheredFeatures, recompute, save_kept
from psld.evaluation.folders import ReferenceManifest, save_features
from psld.evaluation.results import CellResults
from psld.grid.cells import Grid
from psld.metrics.features import Features
from psld.report.certificate import INDEX
from psld.sampling.settings import SampledShard, ShardRecord
from tests.commands import call, succeeded
from tests.grid.mine import grid_content, grid_in, write_grid
from tests.results import SOFTWARE, cell_result, write_model_manifest

GRID = grid_content("""
samples: 60
shard_size: 30
models:
  vp-sde: [process=vp-sde]
  classes: [process=psld, training.label_dropout=0.1]
tables:
  mine:
    title: Mine
    headings: [model]
    cell: {model: vp-sde, sampler: em}
    band: {absolute: 0.1, relative: 0.05, reason: Chosen for this test.}
    columns:
      - {label: distance}
      - {label: NFE, show: nfe}
      - {label: recall, metric: recall-classifier}
      - {label: memorization, metric: memorization-classifier}
    rows:
      - {label: [VP-SDE], budget: 10, paper: [2.0, 10, null, null]}
      - {label: ["VP-SDE, 20"], budget: 20}
      - {label: ["VP-SDE, 30"], budget: 30}
  guided:
    title: Guided
    headings: [model]
    cell: {model: classes, sampler: free, budget: 10}
    columns: [{label: distance}, {label: class accuracy, show: class_accuracy}]
    rows: [{label: [PSLD]}]
""")

CELLS = ("vp-sde/em-10", "vp-sde/em-20", "classes/free-10")
"""The evaluated cells; vp-sde/em-30 has not been run."""

CERTIFICATE = "results/certificates/mine.zip"
RESULT = "results/cells/mine/vp-sde/em-20.json"
KEPT = "results/cells/mine/vp-sde/em-20.safetensors"
REFERENCE = "features/digits/fd-classifier/reference/features.safetensors"
REFERENCE_MANIFEST = "features/digits/fd-classifier/reference/manifest.json"
MODEL = "models/mine/vp-sde/manifest.json"
TABLE = "results/tables/mine/mine.csv"
RECORD = "samples/mine/vp-sde/em-20/00000-00001.json"
ROW = f"{TABLE}: VP-SDE, 20, distance"
MINE = "mine: 2 given by the sampler's settings, 4 not run, 6 recomputed from features"

CLASSES, DIGEST = 3, "d" * 64
REFERENCE_IMAGES = {"train": 80, "test": 40, "noise": 80}


def random_features(seed: int, n: int) -> Features:
    generator = torch.Generator().manual_seed(seed)
    return Features(*(torch.randn(n, width, generator=generator) for width in (4, CLASSES)))


def make_project(folder: Path) -> Grid:
    """Write the grid and everything that its certificate needs."""
    grid = write_grid(folder, GRID)
    for model in grid.models:
        steps = grid.models[model].settings.training.steps
        write_model_manifest(folder, grid, model, dataset_digest=DIGEST, step=steps)
    with contextlib.chdir(folder):
        write_reference(grid, reference_features())
        for seed, name in enumerate(CELLS):
            evaluate(grid, name, seed)
    return grid


def reference_features() -> dict[str, Features]:
    return {name: random_features(n, n) for name, n in REFERENCE_IMAGES.items()}


def write_reference(grid: Grid, parts: dict[str, Features], **fields: Any) -> None:
    folder = grid.features["digits/fd-classifier"].reference.output
    manifest = ReferenceManifest(
        extractor=grid.metrics["fd-classifier"].extractor,
        truncated_reference=False,
        dataset_digest=DIGEST,
        images=REFERENCE_IMAGES,
        features_sha256=save_features(folder, parts, {}),
        extractor_test_accuracy=0.5,
        device="CPU",
        **{"dataset": "digits", "extractor_digest": "e" * 64, **SOFTWARE, **fields},
    )
    write_record(Path(folder) / "manifest.json", manifest)


def evaluate(
    grid: Grid,
    name: str,
    seed: int,
    largest: int = 512,
    moments: bool = True,
    share: float = 1,
    classes: int = 10,
) -> None:
    """Write results like `psld evaluate_cell`, with random features of the samples.

    Without `moments`, the results contain neither features nor their mean and covariance, as if the
    maker hides them. Two forgeries: `share` of the network evaluations, and another number of
    `classes`.
    """
    cell = grid.cells[name]
    twice = 2 if "free" in name else 1
    steps, labels = int(share * twice * int(cell.sampler.budget)), torch.arange(60) % classes
    features = random_features(seed, 60)
    gathered = GatheredFeatures(
        samples={each.group: features.first(each.samples) for each in cell.measurements},
        labels=labels if "free" in name else None,
        costs=[Cost(30, steps, 1.25, "CPU"), Cost(30, steps, 2.5, "CPU")],
    )
    kept = save_kept(cell.kept, gathered, 512)
    stubs = (cell_result(grid, name, value=0.0, kept_sha256=kept),) * len(cell.measurements)
    stated, settings = CellResults(results=stubs), cell.evaluate_job.settings
    computed = recompute(settings, stated, gathered, {})
    gathered = gathered if moments else replace(gathered, samples={})
    kept = save_kept(cell.kept, gathered, largest)
    results = (result.model_copy(update={"kept_sha256": kept}) for result in computed.results)
    write_record(cell.result, CellResults(results=tuple(results)))
    shards = tuple(SampledShard(index=i, digest=f"{seed}{i}" * 32, images=30) for i in range(2))
    ShardRecord(shards=shards).write(cell.folder)


def certify(folder: Path) -> bytes:
    succeeded(call(folder, "certify", "grid_name=mine"))
    return (folder / CERTIFICATE).read_bytes()


def evaluate_again(folder: Path, cell: str, **options: int) -> None:
    grid = grid_in(folder)
    with contextlib.chdir(folder):
        evaluate(grid, cell, **options)


def entries_of(certificate: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(certificate)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def zipped(entries: dict[str, bytes]) -> bytes:
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w") as archive:
        for name, content in entries.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return memory.getvalue()


def forged(entries: dict[str, bytes]) -> bytes:
    """Return a certificate of these entries with correct digests."""
    others = {name: content for name, content in entries.items() if name != INDEX}
    index = {name: hashlib.sha256(content).hexdigest() for name, content in others.items()}
    return zipped({INDEX: json.dumps(index).encode(), **others})
