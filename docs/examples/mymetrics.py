"""A metric, MEASURE@EXTRACTOR: a measure of the features of an extractor.

    psld evaluate images=mine.npz dataset=digits metric=mymetrics:MeanShift@mymetrics:Rows

The interval comes from a jackknife, which computes the value again without each of twenty blocks of
the samples. An extractor with `trains = True` and a method `train(images, labels, device)` is
trained on each dataset; by hand, `psld train_extractor dataset=digits metric=MEASURE@EXTRACTOR`
does this.
"""

from psld.parts import Extractor, Measure


class MeanShift(Measure):
    """The squared distance of the means."""

    word = "md"  # in the metric's name
    better = "smaller"  # or larger, or floor: nearest to the number of real images

    def value(self, samples, reference):  # features, n×d and m×d
        return (samples.mean(0) - reference.mean(0)).square().sum()


class Rows(Extractor):
    """The mean brightness of the rows."""

    word = "rows"

    def build(self, device):
        return lambda images: images.float().mean(dim=(1, 3)) / 255

    def digest(self):  # of a function; a module has its weights
        return "rows"
