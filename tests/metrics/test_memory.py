"""The counted memory of an evaluation is what torch's allocator gives out, and needs no weights."""

from pathlib import Path

import pytest
import torch

from psld.metrics.classifier import ClassifierExtractor, FeatureClassifier, ImageShape
from psld.metrics.features import Extractor
from psld.metrics.memory import evaluation_memory
from psld.metrics.published import DINOv2Extractor, InceptionExtractor
from psld.metrics.settings import ClassifierSettings, DINOv2Settings, InceptionSettings
from tests.allocated import most_allocated
from tests.metrics.random_networks import random_dinov2, write_random_inception

SHAPE = ImageShape(channels=3, image_size=32, num_classes=10)
EXTRACTORS = {
    "classifier": ClassifierSettings(kind="classifier"),
    "inception": InceptionSettings(kind="inception"),
    "dinov2": DINOv2Settings(kind="dinov2", size="small"),
}


def with_weights(name: str, file: Path) -> Extractor:
    if name == "classifier":
        return ClassifierExtractor(FeatureClassifier(EXTRACTORS[name], SHAPE))
    if name == "inception":
        return InceptionExtractor(write_random_inception(file))
    torch.save(random_dinov2(384, 12), file)
    return DINOv2Extractor(EXTRACTORS[name].model_copy(update={"weights": file}))


@pytest.mark.filterwarnings("ignore:TF32 acceleration")  # torch says it of `mkldnn.flags`
@pytest.mark.parametrize(("name", "images"), [("classifier", 64), ("inception", 4), ("dinov2", 4)])
def test_what_is_counted_is_what_torch_allocates(name, images, tmp_path, monkeypatch):
    extractor = with_weights(name, tmp_path / "weights.pth")
    batch = torch.zeros(images, 3, 32, 32, dtype=torch.uint8)
    network = extractor.network if name == "classifier" else extractor._network
    before = sum(x.nbytes for x in (batch, *network.state_dict().values()))
    # oneDNN copies the inputs of some convolutions that halve an image, on CPUs alone.
    with torch.backends.mkldnn.flags(enabled=name != "classifier"):
        allocated = before + most_allocated(lambda: extractor(batch))
    monkeypatch.setattr("psld.metrics.published.load_state_dict_from_url", None)  # no download
    counted = evaluation_memory(EXTRACTORS[name], SHAPE, images)
    assert counted == pytest.approx(allocated, rel=0.02)
