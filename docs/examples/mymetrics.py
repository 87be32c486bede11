"""A metric, MEASURE@EXTRACTOR: a measure of the features of an extractor.

    psld evaluate images=mine.npz dataset=digits metric=mymetrics:MeanShift@mymetrics:Rows

The interval comes from a jackknife, which recomputes the value twenty times, each time without one
of twenty blocks of the samples. An extractor with `trains = True` and a method `train(images,
labels, device)` is trained on each dataset, by the workflow or by `psld train_extractor
dataset=digits metric=MEASURE@EXTRACTOR`.
"""

from psld.parts import Extractor, Measure


class MeanShift(Measure):
    """The squared distance between the means of the features."""

    word = "md"  # the name of the measure in the names of metrics
    better = "smaller"  # or "larger"; or "floor": closest to the value of real images

    def value(self, samples, reference):  # features of n samples and m reference images: n×d, m×d
        return (samples.mean(0) - reference.mean(0)).square().sum()


class Rows(Extractor):
    """The mean brightness of each row of pixels."""

    word = "rows"

    def build(self, device):
        return lambda images: images.float().mean(dim=(1, 3)) / 255

    def digest(self):  # needed for a function; the digest of a module is computed from its weights
        return "rows"
