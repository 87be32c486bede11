"""DINOv2 as an extractor: the features of FD-DINOv2 (Stein et al. 2023)."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch_fidelity.interpolate_compat_tensorflow import (
    interpolate_bilinear_2d_like_tensorflow1x,
)

from psld.metrics.extractor import digest_of_weights, rgb
from psld.metrics.settings import DINOv2Settings
from psld.metrics.vision_transformer import VisionTransformer
from psld.metrics.weights import load_weights, unusable_weights

URL = "https://dl.fbaipublicfiles.com/dinov2/{0}/{0}_pretrain.pth"
"""The address of the weights that Meta publishes."""

SIDE = 224
"""Pixels along a side of the resized images."""

MEAN = (0.485, 0.456, 0.406)
DEVIATION = (0.229, 0.224, 0.225)
"""ImageNet's mean and standard deviation of RGB values in [0, 1]."""


class Size(NamedTuple):
    """One of the published networks."""

    file: str
    width: int
    depth: int
    heads: int


SIZES = {
    "small": Size("dinov2_vits14", 384, 12, 6),
    "base": Size("dinov2_vitb14", 768, 12, 12),
    "large": Size("dinov2_vitl14", 1024, 24, 16),
}


class DINOv2Extractor:
    """The class token of DINOv2, for images resized and normalized as in torch-fidelity.

    torch-fidelity 0.4 loads the network by torch.hub, which downloads and runs code, and it accepts
    no path. So the network is implemented here, and its weights are read as tensors.
    """

    def __init__(self, settings: DINOv2Settings, device: torch.device | str = "cpu") -> None:
        """Load the weights from a path, or download them.

        Raises UserError if there are none or they are of another network.
        """
        size = SIZES[settings.size]
        url = URL.format(size.file)
        state = load_weights("DINOv2", settings.weights, url)
        network = VisionTransformer(size.width, size.depth, size.heads)
        try:
            network.load_state_dict(state)
        except RuntimeError:  # names or shapes differ
            raise unusable_weights(
                "DINOv2", settings.weights, url, "the weights of another network"
            ) from None
        self.dimension = size.width
        self.device = torch.device(device)
        self._network = network.to(self.device).eval().requires_grad_(False)
        # Made here: a copy to a GPU holds up the host.
        self._mean, self._deviation = (
            255 * torch.tensor(v, device=self.device)[:, None, None] for v in (MEAN, DEVIATION)
        )
        self.digest = digest_of_weights(f"DINOv2 {size.file} {SIDE}", state)

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> tuple[Tensor, None]:
        """Map uint8 N×3×H×W (or N×1×H×W) → float32 N×d, and None: DINOv2 has no logits."""
        x = rgb(images, "DINOv2").to(self.device, torch.float32)
        x = interpolate_bilinear_2d_like_tensorflow1x(x, size=(SIDE, SIDE), align_corners=False)
        return self._network((x - self._mean) / self._deviation), None
