"""Measure the CPU time of each measure on random features, and the memory of these features.

python -m benchmarks.metrics --samples 5000 --reference 5000 --features 2048 --classes 1008
"""

import argparse
import time

import torch

from psld.config.settings import parse
from psld.metrics.features import Features, Reference
from psld.metrics.settings import MetricSettings

MEASURES = {
    "fid": {"kind": "frechet"},
    "kid": {"kind": "kernel"},
    "inception-score": {"kind": "inception-score"},
    "precision-inception": {"kind": "precision"},
    "recall-inception": {"kind": "recall"},
    "memorization-inception": {"kind": "memorization"},
}


def features(n: int, dimension: int, classes: int, seed: int) -> Features:
    random = torch.Generator().manual_seed(seed)
    mixing = torch.randn(dimension, dimension, generator=random) / dimension**0.5
    values = torch.randn(n, dimension, generator=random) @ mixing
    return Features(values, torch.randn(n, classes, generator=random))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=5000)
    parser.add_argument("--reference", type=int, default=5000, help="training images")
    parser.add_argument("--features", type=int, default=2048)
    parser.add_argument("--classes", type=int, default=1008)
    given = parser.parse_args()
    shape = (given.features, given.classes)
    samples = features(given.samples, *shape, seed=0)
    train, test = (features(n, *shape, s) for s, n in ((1, given.reference), (2, given.samples)))
    reference = Reference(train, test, test)
    for name, settings in MEASURES.items():
        content = {"name": name, "extractor": {"kind": "inception"}, "measure": settings}
        metric = parse(MetricSettings, content, name)
        started = time.process_time()
        estimate = metric.evaluate(samples, reference).estimate
        print(f"{name:24} {time.process_time() - started:7.1f} s  {estimate.value:.4g}")
    print(f"features                 {samples.values.nbytes / 1e6:7.1f} MB")


if __name__ == "__main__":
    main()
