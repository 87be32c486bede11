"""Samplers with few network evaluations against Euler–Maruyama (EM) with many, on a grid's models.

    python -m benchmarks.few_steps FOLDER --sampler "multistep eta=1" --steps 8 10 --seeds 5 6 7
    python -m benchmarks.few_steps FOLDER --grid digits-denoiser --models psld-0.02 \\
        denoiser-psld-0.02 --trainings 3 --baseline psld-0.02 --sampler few --steps 3 4

FOLDER is where the grid ran, with models/GRID, data/DATASET.h5 and features/DATASET/METRIC.
The benchmark measures two Fréchet distances of 1,000 samples: in the features of the metric's
classifier, to the training split, and in pixels on the scale 0 to 1, to all images. The start of
`few` nearly knows the two moments that the distance of pixels compares, so a first row, with 0
evaluations, has images of that start alone, without the network.

Errors and tests are those of the tables (psld/grid/entries.py): after ± stands half of the 95 %
interval of the mean over trainings and sampling seeds. It covers other samples and, with several
trainings, training again. Ratios are of means. p is of the difference from EM at the most steps, in
features and in pixels: block by block of samples if both draw the same noise, with the error of
training again if there are several trainings. With one, it is of these weights. It is not corrected
for the number of rows. With `--baseline MODEL` and an empty `--against`, a row is compared with the
same row of that model. Measured cells are kept in a file, so a second run measures only new cells.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

import psld
from psld.data.store import ImageStore
from psld.metrics.distances import frechet_estimate
from psld.metrics.estimate import (
    Difference,
    Estimate,
    Interval,
    averaged,
    combined,
    paired_difference,
    pooled,
    spread,
    unpaired_difference,
)
from psld.metrics.extraction import FeatureExtractor, batches_of, gather
from psld.metrics.features import FeatureStatistics
from psld.sampling.named import named_process
from psld.training.manifest import ModelManifest, read_manifest
from psld.training.start import find_start
from psld.utils.errors import in_one_line

SAMPLES = 1000
BATCH = 500

EM = "em striding=quadratic"


class Cell(NamedTuple):
    """One sampler with its budget, on one model and with one seed."""

    metric: str
    weights_sha256: str
    start: str
    """The digest of the model's start, which decides σ₀; empty for samplers from the prior."""
    sampler: str
    """A config of configs/sampler, and KEY=VALUE settings for it."""
    steps: int
    seed: int

    def images(self, folder: Path) -> Tensor:
        model = psld.load(folder)
        return images_of(model, SAMPLES, self.sampler, self.steps, self.seed)


def images_of(model: psld.LoadedModel, n: int, sampler: str, steps: int, seed: int) -> Tensor:
    """Return n images, uint8, of a sampler in the words of a `Cell`."""
    name, options = words(sampler)
    return model.sample(n, sampler=name, steps=steps, seed=seed, **options)


def words(sampler: str) -> tuple[str, dict[str, str]]:
    name, *options = sampler.split()
    return name, dict(word.split("=", 1) for word in options)


class Distances(NamedTuple):
    """The two distances of a set of images to those of the dataset."""

    features: Estimate
    pixels: Estimate


class Reference:
    """The reference images of a dataset: their features and pixels."""

    def __init__(self, folder: Path, dataset: str, metric: str) -> None:
        store = ImageStore.open(folder / "data" / f"{dataset}.h5")
        self.extractor = psld.load_extractor(folder / "features" / dataset / metric)
        self.features = FeatureStatistics.of(self._features(store.images("train")))
        pixels = [_pixels(store.images(split)) for split in ("train", "test")]
        self.pixels = FeatureStatistics.of(torch.cat(pixels))

    def distances(self, images: Tensor) -> Distances:
        return Distances(
            frechet_estimate(self._features(images.numpy()), self.features),
            frechet_estimate(_pixels(images.numpy()), self.pixels),
        )

    def _features(self, images: np.ndarray) -> Tensor:
        return features_of(self.extractor, images)


def features_of(extractor: FeatureExtractor, images: np.ndarray) -> Tensor:
    batches = batches_of(images, BATCH)
    return gather(extractor, batches, "features", len(images), silent=True).values


def _pixels(images: np.ndarray) -> Tensor:
    """The pixels on the scale 0 to 1, N×d, in float64."""
    return torch.from_numpy(np.array(images)).flatten(1).double() / 255


@dataclass(frozen=True)
class Results:
    """One distance in a row: of each training, by its name, an estimate for each sampling seed."""

    estimates: dict[str, list[Estimate]]
    blocks: int | None = None
    """The number of blocks of variables. Only with as many is the noise of a sample the same."""

    @property
    def drawn(self) -> Estimate:
        return pooled([averaged(seed) for seed in zip(*self.estimates.values(), strict=True)])

    @property
    def by_training(self) -> dict[str, float]:
        return {name: fmean(map(float, seeds)) for name, seeds in self.estimates.items()}

    @property
    def interval(self) -> Interval:
        values = list(self.by_training.values())
        errors = [self.drawn, *([spread(values)] if len(values) > 1 else [])]
        return combined(self.drawn.value, [each.interval for each in errors])

    def difference(self, other: "Results") -> Difference:
        """Return the difference, with the errors of samples and of training again."""
        paired = self.blocks is not None and self.blocks == other.blocks
        drawn = (paired_difference if paired else unpaired_difference)(self.drawn, other.drawn)
        return drawn.retrained(self.by_training, other.by_training)


class Row(NamedTuple):
    """Both distances of one sampler with its budget."""

    features: Results
    pixels: Results

    @classmethod
    def of(cls, cells: dict[str, list[Distances]], blocks: int | None = None) -> "Row":
        distances = ({n: [c[i] for c in row] for n, row in cells.items()} for i in (0, 1))
        return cls(*(Results(each, blocks) for each in distances))

    def __str__(self) -> str:
        return pair(*(each.drawn.value for each in self))

    def half_widths(self) -> str:
        return pair(*(each.interval.half_width for each in self))

    def over(self, other: "Row") -> str:
        """Return the ratios of the means."""
        values = zip(self, other, strict=True)
        return pair(*(mine.drawn.value / theirs.drawn.value for mine, theirs in values))

    def p_values(self, other: "Row") -> str:
        differences = (mine.difference(theirs) for mine, theirs in zip(self, other, strict=True))
        return "p = " + ", ".join(f"{each.p_value:.2g}" for each in differences)


def pair(features: float, pixels: float) -> str:
    return f"{features:5.2f} {pixels:6.3f}"


class Kept:
    """The cells measured so far, in a file with one JSON record per line."""

    def __init__(self, file: Path, reference: Reference) -> None:
        lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
        self.file, self.reference, self.cells = file, reference, {}
        for record in map(json.loads, lines):
            found = Distances(*map(Estimate.model_validate, record["distances"]))
            self.cells[Cell(*record["cell"])] = found

    def distances(self, cell: Cell, images: Callable[[], Tensor]) -> Distances:
        """Return the distances of a cell; if there are none, measure and keep them."""
        if cell not in self.cells:
            self.cells[cell] = found = self.reference.distances(images())
            record = {"cell": cell, "distances": [each.model_dump(mode="json") for each in found]}
            with self.file.open("a", encoding="utf-8") as file:
                print(json.dumps(record), file=file)
        return self.cells[cell]


class Measured:
    """The rows of the models of a grid."""

    def __init__(self, models: Path, metric: str, kept: Kept) -> None:
        self.models, self.metric, self.kept = models, metric, kept

    def one(self, model: str, sampler: str, steps: int, seed: int) -> Distances:
        folder = self.models / model
        manifest = read_manifest(folder, ModelManifest)
        sha256, images = (
            manifest.weights_sha256,
            (manifest.settings.dataset, manifest.dataset_digest),
        )
        begins = sampler.startswith("few") or "start=" in sampler
        start = find_start(*images, classes=False).sha256 if begins else ""
        cell = Cell(self.metric, sha256, start, sampler, steps, seed)
        return self.kept.distances(cell, lambda: cell.images(folder))

    def row(self, trainings: Sequence[str], sampler: str, steps: int, seeds: Iterable[int]) -> Row:
        cells = {name: [self.one(name, sampler, steps, s) for s in seeds] for name in trainings}
        settings = read_manifest(self.models / trainings[0], ModelManifest).settings
        name = words(sampler)[1].get("process")
        process = named_process("few_steps", name) if name else settings.process
        return Row.of(cells, process.blocks)


@in_one_line()
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
    measured = Measured(models, given.metric, Kept(file, reference))
    samplers = given.sampler or ["multistep"]
    ratios = "".join(f"{f'/ EM at {steps}':>15}" for steps in sorted(given.against))
    header = f"{'model':18} {'steps':>5}  {'features, pixels':>16} {'±':>12}"
    print(f"{header}{ratios}  p; sampler; each training")
    for model in given.models:
        compared = given.baseline or model
        trainings, theirs = (
            [name, *(f"{name}-seed{i}" for i in range(1, given.trainings))]
            for name in (model, compared)
        )
        baselines = [measured.row(theirs, EM, n, given.seeds) for n in sorted(given.against)]
        rows = [(EM, steps) for steps in sorted(given.against)]
        rows += [(sampler, 0) for sampler in samplers if sampler.startswith("few")]
        rows += [(sampler, steps) for sampler in samplers for steps in given.steps]
        for sampler, steps in rows:
            row = measured.row(trainings, sampler, steps, given.seeds)
            values = f"{row!s:>16} {row.half_widths():>12}"
            values += "".join(f"{row.over(baseline):>15}" for baseline in baselines)
            p = ""
            if given.baseline and not baselines:
                same = measured.row(theirs, sampler, steps, given.seeds)
                p = f"/ {given.baseline}: {row.over(same)}, {row.p_values(same)}"
            elif baselines and (compared != model or sampler != EM):
                p = row.p_values(baselines[-1])
            each = (
                pair(*both) for both in zip(*(d.by_training.values() for d in row), strict=True)
            )
            print(f"{model:18} {steps:5}  {values}  {p}; {sampler}; {', '.join(each)}")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
