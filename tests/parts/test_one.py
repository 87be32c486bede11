"""The measure of studies/one, a custom part."""

import pytest
import torch

from psld.metrics.features import Features, Reference
from psld.metrics.settings import MetricSettings, PixelSettings
from studies.one.parts import Copies


@pytest.mark.parametrize("channels", [1, 3])
def test_mirrored_memorization_counts_mirror_images_as_copies(channels):
    images = torch.rand(60, channels, 8, 8, generator=torch.manual_seed(0))
    train, test, others = (part.flatten(1) for part in images.split(20))
    turned = images[:20].flip(3).flatten(1)
    reference = Reference(Features(train), Features(test), None)
    shares = []
    for measure in (Copies(), "memorization"):
        kind = measure if isinstance(measure, str) else measure.word
        content = {"name": f"{kind}-pixels", "extractor": PixelSettings(), "measure": measure}
        metric = MetricSettings.model_validate(content)
        samples = Features(torch.cat([turned, others]))
        shares.append(metric.evaluate(samples, reference).estimate.value)
    assert shares[0] >= 0.5 > shares[1]
