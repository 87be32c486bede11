"""The start of `few` without a network, next to samplers that begin there; and copies.

    python -m benchmarks.start FOLDER demo/denoiser-psld demo/psld-0.02

FOLDER is where the grids ran, with models/GRID/MODEL, data/DATASET.h5 and features/DATASET/METRIC.
Each model has a table: test images, Euler–Maruyama (EM), and `few` from the mixture and from one
Gaussian; with 0 evaluations, draws from the mixture. Its columns, means over the sampling seeds ±
their standard deviation:

    distance     Fréchet distance in the features of the metric, to the training split
    / EM         its mean over that of EM
    nearest      the mean distance of pixels (L2) to the nearest training image, over that of test
                 images; mirror images count if the training has them
    closest 1 %  the 1 % quantile of these distances, over that of test images
    memorized    the share of images that are nearer to a training image, in features, than 95 % of
                 test images: 5 % if they are as new as these

Copies lower `nearest` and `closest 1 %`, and raise `memorized`. Images unlike the data do the
opposite, so look at the distance, too.
"""

import argparse
import sys
from pathlib import Path
from statistics import fmean, stdev

import numpy as np
import torch
from tabulate import tabulate
from torch import Tensor

import psld
from benchmarks.few_steps import EM, features_of, images_of
from psld.data.settings import DatasetSettings
from psld.data.store import ImageStore, from_uint8
from psld.metrics.distances import frechet_distance, memorization, nearest
from psld.metrics.extraction import FeatureExtractor
from psld.metrics.features import FeatureStatistics
from psld.training.mixture import passes_over
from psld.utils.errors import UserError, in_one_line

SAMPLERS = [(EM, 100), *(("few", n) for n in (0, 2, 3, 4, 6)), ("few start=gaussian", 4)]
HEADERS = ("sampler, evaluations", "distance", "/ EM", "nearest", "closest 1 %", "memorized")
FIRST_SEED = 11
"""The constants of the start were chosen on others."""

Numbers = tuple[float, float, float, float]
"""A row's columns without the ratio to EM."""


class Reference:
    """The training images of a dataset, and some of its test images, drawn at random."""

    def __init__(
        self, store: ImageStore, flip: bool, extractor: FeatureExtractor, images: int
    ) -> None:
        self.extractor = extractor
        train, test = store.images("train"), store.images("test")
        if not len(test):
            raise UserError(f"{store.path}: has no test images, which copies are compared with")
        chosen = np.random.default_rng(0).permutation(len(test))[:images]
        self.test = torch.from_numpy(test[np.sort(chosen)])
        passes = passes_over(train, store.labels("train"), torch.device("cpu"), flip)
        self.train = torch.cat([x.flatten(0, 1).flatten(1) for x, _ in passes()])
        self.train_features = self._features(train)
        self.statistics = FeatureStatistics.of(self.train_features)
        self.test_features = self._features(self.test.numpy())
        self.of_test = self._nearest(self.test)

    def numbers(self, images: Tensor) -> Numbers:
        """Measure images, uint8 n×C×H×W."""
        features, apart = self._features(images.numpy()), self._nearest(images)
        distance = frechet_distance(FeatureStatistics.of(features), self.statistics)
        near = float(apart.mean() / self.of_test.mean())
        closest = float(apart.quantile(0.01) / self.of_test.quantile(0.01))
        shares = memorization(features, self.train_features, self.test_features)
        return distance, near, closest, float(shares.share)

    def _nearest(self, images: Tensor) -> Tensor:
        return nearest(from_uint8(images).flatten(1), self.train)[0]

    def _features(self, images: np.ndarray) -> Tensor:
        return features_of(self.extractor, images).cpu()


def row(name: str, seeds: list[Numbers], em: float) -> list[str]:
    """Return the cells of a sampler, with a deviation if there are several seeds."""

    def cell(values: tuple[float, ...], digits: str) -> str:
        deviation = f" ± {stdev(values):{digits}}" if len(values) > 1 else ""
        return f"{fmean(values):{digits}}{deviation}"

    distance, near, closest, memorized = zip(*seeds, strict=True)
    cells = cell(distance, ".3f"), f"{fmean(distance) / em:.2f}"
    return [name, *cells, *(cell(v, ".2f") for v in (near, closest)), cell(memorized, ".1%")]


@in_one_line()
def main() -> None:
    as_it_is = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=as_it_is)
    parser.add_argument("folder", type=Path, help="where the grids ran")
    parser.add_argument("models", nargs="+", metavar="GRID/MODEL")
    parser.add_argument("--metric", default="fd-classifier", help="whose classifier is used")
    parser.add_argument("--extractor", help="a folder, or a published network, in place of it")
    parser.add_argument(
        "--images", type=int, default=1000, help="of each sampler (1,000); few make distances large"
    )
    parser.add_argument("--seeds", type=int, default=3, help="the number of sampling seeds")
    given = parser.parse_args()
    if given.seeds < 1 or given.images < 2:
        parser.error("at least --seeds 1 and --images 2 are needed")
    for name in given.models:
        model = psld.load(given.folder / "models" / name)
        dataset: DatasetSettings = model.settings.dataset
        store = ImageStore.open_for(given.folder / "data" / f"{dataset.name}.h5", dataset)
        trained = given.folder / "features" / dataset.name / given.metric
        extractor = psld.load_extractor(given.extractor or trained)
        reference = Reference(store, dataset.flip, extractor, given.images)
        seeds = range(FIRST_SEED, FIRST_SEED + given.seeds)
        found = {}
        for sampler, steps in SAMPLERS:
            images = (images_of(model, given.images, sampler, steps, seed) for seed in seeds)
            print(f"{name}: {sampler}, {steps} evaluations", file=sys.stderr, flush=True)
            found[f"{sampler}, {steps}"] = [reference.numbers(each) for each in images]
        em = fmean(each[0] for each in found[f"{EM}, 100"])
        found = {f"{len(reference.test)} test images": [reference.numbers(reference.test)]} | found
        print(f"\n{name}, {model.start.data.components()[0]} Gaussians\n")
        rows = [row(*each, em) for each in found.items()]
        print(tabulate(rows, HEADERS, "github", disable_numparse=True), flush=True)


if __name__ == "__main__":
    main()
