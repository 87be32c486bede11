"""Samplers with few network evaluations against Euler–Maruyama (EM) with many, on a grid's models.

    python -m benchmarks.few_steps FOLDER --sampler "multistep eta=1" --steps 8 10 --seeds 5 6 7
    python -m benchmarks.few_steps FOLDER --grid digits-denoiser --models psld-0.02 \\
        denoiser-psld-0.02 --trainings 3 --baseline psld-0.02 --sampler few --steps 3 4

FOLDER is where the grid ran, with models/GRID, data/DATASET.h5 and features/DATASET/METRIC.
The benchmark measures two Fréchet distances of 1,000 samples: in the features of the metric's
classifier, to the training split, and in pixels on the scale 0 to 1, to all images. The start of
`few` knows exactly the two moments that the distance of pixels compares, so a first row, with 0
evaluations, has images of that Gaussian alone.

With several trainings, a training counts as one result, the mean of its seeds; with one, a seed,
and nothing is said of other trainings. After ± stands half of the 95 % interval of the mean over
them. Ratios are of means. p compares with EM at the most steps: a t-test of the logarithms, paired
if both are of the same trainings, else Welch's. It is not corrected for the number of rows. With
`--baseline MODEL` and an empty `--against`, a row is compared with the same row of that model,
paired by training, and the ratio of features has its 95 % interval. Measured cells are kept in a
file, so a second run measures only new cells.
"""

import argparse
import json
import math
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from scipy.stats import ttest_ind, ttest_rel
from torch import Tensor

import psld
from psld.data.store import ImageStore, to_uint8
from psld.metrics.distances import frechet_distance
from psld.metrics.estimate import spread
from psld.metrics.features import FeatureStatistics, batches_of, gather
from psld.training.manifest import ModelManifest, read_manifest
from psld.training.start import load_start

SAMPLES = 1000
BATCH = 500

EM = "em striding=quadratic"


GAUSSIAN = "the Gaussian alone"


class Cell(NamedTuple):
    """One sampler with its budget, on one model and with one seed."""

    metric: str
    weights_sha256: str
    start: str
    """The digest of the model's start, which decides σ₀; empty for samplers from the prior."""
    sampler: str
    """A config of configs/sampler, and KEY=VALUE settings for it; or `GAUSSIAN`."""
    steps: int
    seed: int

    def images(self, folder: Path) -> Tensor:
        model = psld.load(folder)
        if self.sampler == GAUSSIAN:
            noise = torch.Generator().manual_seed(self.seed)
            normal = torch.randn(SAMPLES, *model.start.data.shape, generator=noise)
            return to_uint8(model.start.data.draw(normal, 0.0))
        name, *words = self.sampler.split()
        options = dict(word.split("=", 1) for word in words)
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

    def __init__(self, models: Path, reference: Reference, metric: str, file: Path) -> None:
        self.models, self.reference, self.metric, self.file = models, reference, metric, file
        lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
        records = map(json.loads, lines)
        self.cells = {Cell(*r["cell"]): Distances(*r["distances"]) for r in records}

    def one(self, model: str, sampler: str, steps: int, seed: int) -> Distances:
        folder = self.models / model
        sha256 = read_manifest(folder, ModelManifest).weights_sha256
        starts = sampler == GAUSSIAN or sampler.startswith("few")
        start = load_start(folder, sha256).sha256 if starts else ""
        cell = Cell(self.metric, sha256, start, sampler, steps, seed)
        if cell not in self.cells:
            self.cells[cell] = self.reference.distances(cell.images(folder))
            record = {"cell": cell, "distances": self.cells[cell]}
            with self.file.open("a", encoding="utf-8") as file:
                print(json.dumps(record), file=file)
        return self.cells[cell]

    def each(
        self, trainings: Sequence[str], sampler: str, steps: int, seeds: Iterable[int]
    ) -> list[Distances]:
        """The results of a row: one for each training, or for each seed of a single training."""
        measured = [[self.one(name, sampler, steps, s) for s in seeds] for name in trainings]
        return measured[0] if len(trainings) == 1 else list(map(mean, measured))


def mean(each: Sequence[Distances]) -> Distances:
    return Distances(*(sum(values) / len(each) for values in zip(*each, strict=True)))


def half_widths(each: Sequence[Distances]) -> Distances:
    """Half of the 95 % interval of each mean; infinite for one result."""
    if len(each) == 1:
        return Distances(math.inf, math.inf)
    return Distances(*(spread(values).interval.half_width for values in zip(*each, strict=True)))


def p_values(each: Sequence[Distances], others: Sequence[Distances], paired: bool) -> list[float]:
    """The p-values of the ratios in features and in pixels."""
    logs = [np.log(np.array(side)) for side in (each, others)]
    if paired:
        return list(ttest_rel(*logs).pvalue)
    return list(ttest_ind(*logs, equal_var=False).pvalue)


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
    parser.add_argument(
        "--trainings", type=int, default=1, help="NAME, NAME-seed1 and so on count as one model"
    )
    parser.add_argument("--baseline", help="the model of EM, if it is not that of the row")
    given = parser.parse_args()
    models = given.folder / "models" / given.grid
    manifest = read_manifest(models / given.models[0], ModelManifest)
    reference = Reference(given.folder, manifest.settings.dataset.name, given.metric)
    file = given.cells or given.folder / "few_steps.jsonl"
    measured = Measured(models, reference, given.metric, file)
    samplers = given.sampler or ["multistep"]
    ratios = "".join(f"{f'/ EM at {steps}':>15}" for steps in sorted(given.against))
    header = f"{'model':18} {'steps':>5}  {'features, pixels':>16} {'±':>12}"
    print(f"{header}{ratios}  p; sampler; each result")
    for model in given.models:
        compared = given.baseline or model
        trainings, theirs = (
            [name, *(f"{name}-seed{i}" for i in range(1, given.trainings))]
            for name in (model, compared)
        )
        baselines = [measured.each(theirs, EM, n, given.seeds) for n in sorted(given.against)]
        rows = [(EM, steps) for steps in sorted(given.against)]
        rows += [(GAUSSIAN, 0)] * any(each.startswith("few") for each in samplers)
        rows += [(sampler, steps) for sampler in samplers for steps in given.steps]
        for sampler, steps in rows:
            each = measured.each(trainings, sampler, steps, given.seeds)
            values = f"{mean(each)!s:>16} {half_widths(each)!s:>12}"
            values += "".join(f"{mean(each) / mean(baseline)!s:>15}" for baseline in baselines)
            p = ""
            if given.baseline and not baselines:
                same = measured.each(theirs, sampler, steps, given.seeds)
                logs = [math.log(a.features / b.features) for a, b in zip(each, same, strict=True)]
                half = spread(logs).interval.half_width
                low, high = (math.exp(sum(logs) / len(logs) + side) for side in (-half, half))
                p = f"/ {given.baseline}: {mean(each) / mean(same)} [{low:.2f}, {high:.2f}]"
            measurable = len(each) > 1 and sampler != GAUSSIAN  # its images are those of all models
            if baselines and measurable and (compared != model or sampler != EM):
                both = p_values(each, baselines[-1], paired=compared == model)
                p = "p = " + ", ".join(f"{value:.2g}" for value in both)
            print(f"{model:18} {steps:5}  {values}  {p}; {sampler}; {', '.join(map(str, each))}")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
