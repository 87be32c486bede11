"""A project with a tiny grid whose results were computed from random features, for certificates."""

import contextlib
from pathlib import Path

import torch
import yaml

from psld.config.settings import parse, write_record
from psld.grid import paths
from psld.grid.resolved import Grid
from psld.grid.results import CellResults, LikelihoodResult, Weights
from psld.metrics.classifier import ExtractorManifest
from psld.metrics.evaluation import Cost, Gathered, Measurement, save_kept
from psld.metrics.features import Features
from psld.metrics.likelihood import LikelihoodOrigin, LikelihoodShard, summary
from psld.metrics.measure import Reference, scale
from psld.metrics.reference_folder import (
    ReferenceManifest,
    save_features,
)
from psld.metrics.settings import MetricSettings
from psld.sampling.records import SampledShard, ShardRecord
from psld.training.manifest import read_manifest
from psld.utils.files import write_json, write_text
from tests.results import SOFTWARE, cell_result, write_grid, write_model_manifest

GRID = yaml.safe_load("""
defaults: [dataset=digits, network=demo, training=demo]
metric: fd-classifier
samples: 60
shard_size: 30
batch_size: 30
gallery: em-10
models:
  vp-sde: [process=vp-sde]
  classes: [process=psld, training.label_dropout=0.1]
samplers:
  em: {overrides: [sampler=em], budget: sampler.steps}
  free:
    overrides: [sampler=em, guidance@sampler.guidance=classifier-free]
    budget: sampler.steps
tables:
  mine:
    title: Mine
    headings: [model]
    cell: {model: vp-sde}
    band: {absolute: 0.1, relative: 0.05, reason: Chosen for this test.}
    columns:
      - {label: distance}
      - {label: NFE, show: nfe}
      - {label: recall, metric: recall-classifier}
      - {label: memorization, metric: memorization-classifier}
    rows:
      - {label: [VP-SDE], sampler: em, budget: 10, paper: [2.0, 10, null, null]}
      - {label: ["VP-SDE, 20"], sampler: em, budget: 20}
      - {label: ["VP-SDE, 30"], sampler: em, budget: 30}
  guided:
    title: Guided
    headings: [model]
    cell: {model: classes, sampler: free, budget: 10}
    columns:
      - {label: distance}
      - {label: class accuracy, show: class_accuracy}
    rows:
      - {label: [PSLD]}
  bits:
    title: Bits
    headings: [model]
    cell: {show: bits_per_dimension}
    columns: [{label: bits}]
    rows:
      - {label: [VP-SDE], model: vp-sde}
      - {label: [PSLD], model: classes}
""")

CELLS = ("vp-sde/em-10", "vp-sde/em-20", "classes/free-10")
"""The evaluated cells; vp-sde/em-30 has not been run."""

DIMENSION, CLASSES, DIGEST = 4, 3, "d" * 64


def random_features(seed: int, n: int, logits: bool = True) -> Features:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(n, DIMENSION, generator=generator)
    return Features(values, torch.randn(n, CLASSES, generator=generator) if logits else None)


def make_project(folder: Path) -> Grid:
    """Write the grid and everything that its certificate needs."""
    grid = write_grid(folder, GRID)
    with contextlib.chdir(folder):
        write_text(paths.dataset_digest("digits"), DIGEST + "\n")
        write_json(paths.dataset_record("digits"), {"dataset": "digits", "digest": DIGEST})
        for model in grid.models:
            write_model_manifest(folder, grid, model, dataset_digest=DIGEST)
        reference, manifest = write_reference(grid)
        for seed, cell in enumerate(CELLS):
            evaluate(grid, cell, seed, reference, manifest)
        measure_likelihood(grid, "vp-sde")
    return grid


def measure_likelihood(grid: Grid, model: str) -> None:
    """Do what `psld likelihood` does, with random bits of two shards."""
    weights = Weights(**read_manifest(grid.model_folder(model)).identity())
    settings = grid.likelihood.model_dump(exclude={"shard_size", "images"})
    path = Path(paths.likelihood(grid.name, model))
    shards = []
    for first in (0, 3):
        origin = LikelihoodOrigin(
            weights_sha256=weights.weights_sha256,
            dataset_digest=DIGEST,
            first=first,
            images=3,
            **settings,
        )
        bits = tuple((3 + random_features(first, 3).values[:, 0].double()).tolist())
        cost = {"evaluations": 20, "gradients": 40, "seconds": 1.5, "device": "CPU"}
        shards.append(LikelihoodShard(origin=origin, bits=bits, **cost))
        write_record(path.with_suffix("") / f"{first // 3:05d}.json", shards[-1])
    result = LikelihoodResult(
        **summary(shards), likelihood=grid.likelihood, model=weights, **SOFTWARE
    )
    write_record(path, result)


def write_reference(grid: Grid) -> tuple[Reference, ReferenceManifest]:
    metric = parse(MetricSettings, grid.metrics["fd-classifier"], where="fd-classifier")
    parts = {
        "train": random_features(100, 80, logits=False),
        "test": random_features(101, 40),
        "noise": random_features(102, 80),
    }
    made = {"dataset": "digits", "dataset_digest": DIGEST, "device": "CPU", **SOFTWARE}
    folder = paths.reference_folder("digits", "fd-classifier")
    manifest = ReferenceManifest(
        extractor=metric.extractor,
        truncated_reference=False,
        images={name: len(part) for name, part in parts.items()},
        features_sha256=save_features(folder, parts, {}),
        extractor_digest="e" * 64,
        extractor_test_accuracy=0.5,
        **made,
    )
    write_record(Path(folder) / "manifest.json", manifest)
    extractor = ExtractorManifest(
        extractor=metric.extractor,
        shape={"channels": 1, "image_size": 8, "num_classes": CLASSES},
        digest="e" * 64,
        train_accuracy=0.5,
        test_accuracy=0.5,
        seconds=1.0,
        **made,
    )
    folder = paths.extractor_folder("digits", "fd-classifier")
    write_record(Path(folder) / "manifest.json", extractor)
    return Reference(**parts), manifest


def evaluate(
    grid: Grid,
    cell: str,
    seed: int,
    reference: Reference,
    manifest: ReferenceManifest,
    largest: int = 512,
) -> None:
    """Do what `psld evaluate` does, with random features of the samples."""
    model, sampler = cell.split("/")
    steps = int(sampler.rpartition("-")[2])
    measurements = [
        Measurement(parse(MetricSettings, grid.metrics[e.metric], where=e.metric), e.samples)
        for e in grid.evaluations_by_cell[cell]
    ]
    labels = torch.arange(60) % CLASSES if "free" in sampler else None
    costs = [Cost(30, steps, 1.25, "CPU"), Cost(30, steps, 2.5, "CPU")]
    samples = {("fd-classifier", 60): random_features(seed, 60)}
    gathered = Gathered(samples, labels, costs)
    path = paths.cell_result(grid.name, cell)
    sha256 = save_kept(paths.kept(path), gathered, measurements, largest)
    weights = Weights(**read_manifest(grid.model_folder(model)).identity())
    results = tuple(
        cell_result(
            grid,
            cell,
            value=0.0,  # replaced by the estimate
            kept_sha256=sha256,
            model=weights.model_dump(),
            **gathered.facts(measurement, manifest),
            **gathered.numbers(measurement, reference),
            **scale(measurement.metric, reference),
        )
        for measurement in measurements
    )
    write_record(path, CellResults(results=results))
    shards = tuple(SampledShard(index=i, digest=f"{i}" * 64, images=30) for i in range(2))
    ShardRecord(shards=shards).write(paths.shards_folder(grid.name, model, sampler))
