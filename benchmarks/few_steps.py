"""Samplers with few network evaluations against Euler–Maruyama (EM) with many, on a grid's models.

python -m benchmarks.few_steps FOLDER --sampler "multistep eta=1" --steps 8 10 --seeds 5 6 7
python -m benchmarks.few_steps FOLDER --grid small --metric fd-classifier-small --models cld

FOLDER is where the grid ran, with models/GRID, data/DATASET.h5 and features/DATASET/METRIC.
The benchmark measures two Fréchet distances of 1,000 samples: in the features of the metric's
classifier, to the training split, and in pixels on the scale 0 to 1, to all images. After ± stands
half of the 95 % interval of the mean over the seeds, which covers other samples of the same weights
and not another training. Measured cells are kept in a file, so a second run measures only new
cells.
"""

import argparse
import json
import math
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch import Tensor

import psld
from psld.data.store import ImageStore
from psld.metrics.distances import frechet_distance
from psld.metrics.estimate import spread
from psld.metrics.features import FeatureStatistics, batches_of, gather
from psld.training.manifest import ModelManifest, read_manifest

SAMPLES = 1000
BATCH = 500

EM = "em striding=quadratic"


class Cell(NamedTuple):
    """One sampler with its budget, on one model and with one seed."""

    model: str
    sampler: str
    """A config of configs/sampler, and KEY=VALUE settings for it."""
    steps: int
    seed: int

    def images(self, models: Path) -> Tensor:
        name, *words = self.sampler.split()
        options = dict(word.split("=", 1) for word in words)
        model = psld.load(models / self.model)
        return model.sample(SAMPLES, sampler=name, steps=self.steps, seed=self.seed, **options)


class Distances(NamedTuple):
    """The two distances of a set of images to those of the dataset."""

    features: float
    pixels: float

    def __truediv__(self, other: "Distances") -> "Distances":
        return Distances(*(a / b for a, b in zip(self, other, strict=True)))

    def __str__(self) -> str:
        return f"{self.features:5.2f} {self.pixels:6.3f}"


class Reference:
    """The reference images of a dataset: their features and pixels."""

    def __init__(self, folder: Path, dataset: str, metric: str) -> None:
        store = ImageStore.open(folder / "data" / f"{dataset}.h5")
        self.extractor = psld.load_extractor(folder / "features" / dataset / metric)
        self.features = self._features(store.images("train"))
        self.pixels = _pixels(store.images("train")) + _pixels(store.images("test"))

    def distances(self, images: Tensor) -> Distances:
        return Distances(
            frechet_distance(self._features(images.numpy()), self.features),
            frechet_distance(_pixels(images.numpy()), self.pixels),
        )

    def _features(self, images: np.ndarray) -> FeatureStatistics:
        return gather(self.extractor, batches_of(images, BATCH), "features", len(images)).total


def _pixels(images: np.ndarray) -> FeatureStatistics:
    batches = batches_of(images, BATCH)
    first, *others = (FeatureStatistics.of(batch.flatten(1).double() / 255) for batch in batches)
    return sum(others, start=first)


class Measured:
    """The cells measured so far, in a file with one JSON record per line."""

    def __init__(self, models: Path, reference: Reference, file: Path) -> None:
        self.models = models
        self.file = file
        self.reference = reference
        lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
        records = map(json.loads, lines)
        self.cells = {Cell(*r["cell"]): Distances(*r["distances"]) for r in records}

    def __getitem__(self, cell: Cell) -> Distances:
        if cell not in self.cells:
            self.cells[cell] = self.reference.distances(cell.images(self.models))
            record = {"cell": cell, "distances": self.cells[cell]}
            with self.file.open("a", encoding="utf-8") as file:
                print(json.dumps(record), file=file)
        return self.cells[cell]

    def each(self, model: str, sampler: str, steps: int, seeds: Iterable[int]) -> list[Distances]:
        return [self[Cell(model, sampler, steps, seed)] for seed in seeds]


def mean(each: list[Distances]) -> Distances:
    return Distances(*(sum(values) / len(each) for values in zip(*each, strict=True)))


def half_widths(each: list[Distances]) -> Distances:
    """Half of the 95 % interval of each mean; infinite for one seed."""
    if len(each) == 1:
        return Distances(math.inf, math.inf)
    return Distances(*(spread(values).interval.half_width for values in zip(*each, strict=True)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where the grid ran")
    parser.add_argument("--grid", default="demo")
    parser.add_argument("--metric", default="fd-classifier", help="whose classifier is used")
    parser.add_argument("--sampler", action="append", help='"NAME KEY=VALUE …"; may be repeated')
    parser.add_argument("--steps", type=int, nargs="+", default=[5, 6, 8, 10, 15, 20, 40])
    parser.add_argument("--models", nargs="+", default=["psld-0.02", "cld", "vp-sde"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[11, 12, 13])
    parser.add_argument("--against", type=int, nargs="*", default=[40, 100], help="steps of EM")
    parser.add_argument("--cells", type=Path, help="file of measured cells; in FOLDER by default")
    given = parser.parse_args()
    models = given.folder / "models" / given.grid
    manifest = read_manifest(models / given.models[0], ModelManifest)
    reference = Reference(given.folder, manifest.settings.dataset.name, given.metric)
    measured = Measured(models, reference, given.cells or given.folder / "few_steps.jsonl")
    samplers = given.sampler or ["multistep"]
    ratios = "".join(f"{f'/ EM at {steps}':>15}" for steps in given.against)
    header = f"{'model':10} {'steps':>5}  {'features, pixels':>16} {'±':>12}"
    print(f"{header}{ratios}  sampler; each seed")
    for model in given.models:
        baselines = [mean(measured.each(model, EM, n, given.seeds)) for n in given.against]
        rows = [(EM, steps) for steps in given.against]
        rows += [(sampler, steps) for sampler in samplers for steps in given.steps]
        for sampler, steps in rows:
            each = measured.each(model, sampler, steps, given.seeds)
            values = f"{mean(each)!s:>16} {half_widths(each)!s:>12}"
            compared = "".join(f"{mean(each) / baseline!s:>15}" for baseline in baselines)
            seeds = ", ".join(map(str, each))
            print(f"{model:10} {steps:5}  {values}{compared}  {sampler}; {seeds}")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
