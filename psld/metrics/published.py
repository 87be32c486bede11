"""Extractors that need no training: Inception-v3 (FID), DINOv2, and pixels.

Each extractor maps uint8 images N×3×H×W (or N×1×H×W, repeated to three channels) to float32
features and, if the network has a classifier, logits. Loading the weights runs no code from the
file. Importing torch-fidelity takes seconds, so commands import this module only when needed.
"""

import io
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.hub import load_state_dict_from_url
from torch.nn.functional import adaptive_avg_pool2d, interpolate
from torch_fidelity.feature_extractor_inceptionv3 import (
    URL_INCEPTION_V3,
    FeatureExtractorInceptionV3,
)
from torch_fidelity.interpolate_compat_tensorflow import (
    interpolate_bilinear_2d_like_tensorflow1x,
)
from torchvision.models import VisionTransformer

from psld.metrics.features import digest_of_weights
from psld.utils.errors import UserError
from psld.utils.files import regular_file

SIDE = 224
"""The side, in pixels, to which images are resized for DINOv2."""


class _PublishedNetwork(nn.Module):
    """A network on a device, with the digest of its architecture and published weights."""

    def __init__(
        self,
        network: nn.Module,
        architecture: str,
        weights: Mapping[str, Tensor],
        device: torch.device,
    ) -> None:
        super().__init__()
        # On CPUs, convolutions are faster with the memory layout channels_last.
        layout = torch.channels_last if device.type == "cpu" else torch.preserve_format
        self.network: Any = cast(Any, network).to(device, memory_format=layout)
        self._digest = digest_of_weights(architecture, weights)

    def digest(self) -> str:
        """Return the digest of the weights under their published names."""
        return self._digest

    def _rgb(self, images: Tensor) -> Tensor:
        """Return images as N×3×H×W. Raises UserError unless the images are uint8 N×{1,3}×H×W."""
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
            found = f"{images.dtype} {tuple(images.shape)}"
            raise UserError(f"the extractor accepts uint8 images N×3×H×W or N×1×H×W, not {found}")
        return images.expand(-1, 3, -1, -1)


def _load_network(
    name: str,
    weights: str | Path | None,
    url: str,
    build: Callable[[dict[str, Tensor]], nn.Module],
) -> tuple[nn.Module, dict[str, Tensor]]:
    """Return a network and its weights from the file `weights`; None downloads the weights.

    torch caches the download, and verifies it if the file name ends with a part of the SHA-256.

    Raises UserError if the weights are missing, damaged or for a different network. The message
    states the URL and the place for the file.
    """
    try:
        if weights is None:
            state = load_state_dict_from_url(url, None, "cpu", check_hash=True, weights_only=True)
        else:
            state = torch.load(regular_file(weights), map_location="cpu", weights_only=True)
        return build(dict(state)), state
    except Exception as error:  # a damaged file can raise any exception
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        place = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]
        raise UserError(
            f"no weights of {name} from {weights or url} ({reason}); without a connection, use the "
            "metric fd-pixels or, with two classes or more, fd-classifier, or download "
            f"{url} elsewhere and copy it to {place}"
        ) from error


class InceptionNetwork(_PublishedNetwork):
    """Inception-v3 of torch-fidelity: 2048 pooled features (FID), and 1008 logits without bias."""

    def __init__(self, weights: str | Path | None, device: torch.device) -> None:
        """Load or download the weights of torch-fidelity. Raises UserError if this fails."""
        network, state = _load_network("Inception", weights, URL_INCEPTION_V3, Inception)
        super().__init__(network, "torch-fidelity inception-v3-compat 2048", state, device)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return self.network(self._rgb(images))


class Inception(FeatureExtractorInceptionV3):
    """The network of torch-fidelity with the weights `state`; with None, the weights are random."""

    def __init__(self, state: dict[str, Tensor] | None) -> None:
        # The base class requires a file and would unpickle any object in it. Pass a file in memory
        # that contains only the tensors.
        torch.save(state, buffer := io.BytesIO())
        buffer.seek(0)
        outputs = ["2048", "logits_unbiased"]
        super().__init__("inception-v3-compat", outputs, feature_extractor_weights_path=buffer)

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
        return state_dict and super().load_state_dict(state_dict)


# -- DINOv2 --------------------------------------------------------------------------------------

DINOV2_URL = "https://dl.fbaipublicfiles.com/dinov2/{0}/{0}_pretrain.pth"
"""The URL of the weights published by Meta."""

DINOV2_SIZES = {
    "small": ("dinov2_vits14", 384, 12, 6),
    "base": ("dinov2_vitb14", 768, 12, 12),
    "large": ("dinov2_vitl14", 1024, 24, 16),
}
"""The file name, width, depth and number of heads of each published network."""


class DINOv2Network(_PublishedNetwork):
    """The class token of DINOv2, for images resized and normalized as in torch-fidelity.

    torch-fidelity 0.4 accepts no path and loads the network with torch.hub, which downloads and
    runs code. This class therefore uses torchvision's network and reads the weights as tensors.
    """

    def __init__(self, size: str, weights: str | Path | None, device: torch.device) -> None:
        """Load or download the weights of Meta. Raises UserError if this fails."""
        file, width, depth, heads = DINOV2_SIZES[size]
        url = DINOV2_URL.format(file)
        build = partial(vision_transformer, width=width, depth=depth, heads=heads)
        network, state = _load_network("DINOv2", weights, url, build)
        super().__init__(network, f"DINOv2 {file} {SIDE}", state, device)
        # The mean and the standard deviation of ImageNet's RGB values. Create them only once,
        # because a copy to a GPU blocks the host.
        self._mean, self._deviation = (
            255 * torch.tensor(values, device=device)[:, None, None]
            for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        )

    def forward(self, images: Tensor) -> tuple[Tensor, None]:
        x = self._rgb(images).float()
        x = interpolate_bilinear_2d_like_tensorflow1x(x, size=(SIDE, SIDE), align_corners=False)
        return self.network((x - self._mean) / self._deviation), None


PATCH = 14
"""The side of a patch, in pixels."""

TRAINED_GRID = 37
"""The number of patches along each side in the published position embeddings, which are for images
of 518×518 pixels."""

TORCHVISION_NAMES = {
    "cls_token": "class_token",
    "pos_embed": "encoder.pos_embedding",
    "patch_embed.proj": "conv_proj",
    "blocks.": "encoder.layers.encoder_layer_",
    "norm1": "ln_1",
    "attn.qkv.": "self_attention.in_proj_",
    "attn.proj": "self_attention.out_proj",
    "norm2": "ln_2",
    "mlp.fc1": "mlp.0",
    "mlp.fc2": "mlp.3",
    "norm.": "encoder.ln.",
}
FACTORS = {"attn.proj": "ls1.gamma", "mlp.fc2": "ls2.gamma"}
"""The per-channel factors (layer scale) that multiply the outputs of these layers."""


def vision_transformer(
    state: Mapping[str, Tensor], width: int, depth: int, heads: int
) -> VisionTransformer:
    """Build torchvision's network with Meta's weights; merge the layer scale into the layers.

    The network maps images N×3×H×W, H = W = SIDE, to the normalized class token, N×width.
    """
    network = VisionTransformer(SIDE, PATCH, depth, heads, width, 4 * width)
    network.heads = nn.Sequential()
    renamed = {}
    for name, value in state.items():
        # The factors (.gamma) are merged below; the mask token is only for training.
        if name.endswith((".gamma", "mask_token")):
            continue
        if name == "pos_embed":
            value = positions(value)
        for layer, factor in FACTORS.items():
            if layer in name:
                gamma = state[name.partition(layer)[0] + factor]
                value = torch.einsum("o,o...->o...", gamma, value)
        for theirs, ours in TORCHVISION_NAMES.items():
            name = name.replace(theirs, ours)
        renamed[name] = value
    network.load_state_dict(renamed)
    return network


def positions(trained: Tensor) -> Tensor:
    """Return the position embeddings of the class token and of SIDE×SIDE images, 1×257×width.

    The 0.1 is part of the published network and shifts the points of the bicubic interpolation.
    """
    grid = trained[:, 1:].unflatten(1, (TRAINED_GRID, TRAINED_GRID)).permute(0, 3, 1, 2)
    scale = (SIDE / PATCH + 0.1) / TRAINED_GRID
    patches = interpolate(grid, scale_factor=(scale, scale), mode="bicubic")
    return torch.cat([trained[:, :1], patches.flatten(2).mT], dim=1)


# -- pixels ----------------------------------------------------------------------------------------


class Pixels(_PublishedNetwork):
    """Pixels as features, N×(C·side²) in [0, 1]. Images larger than 16×16 are averaged to 16×16."""

    def __init__(self, device: torch.device) -> None:
        super().__init__(nn.Flatten(), "pixels of at most 16×16", {}, device)

    def forward(self, images: Tensor) -> tuple[Tensor, None]:
        return self.network(adaptive_avg_pool2d(images / 255, _at_most_16(images))), None


def _at_most_16(images: Tensor) -> tuple[int, int]:
    height, width = images.shape[-2:]
    return min(16, height), min(16, width)


# -- tensors ---------------------------------------------------------------------------------------


class Values(nn.Module):
    """Standardized tensors as features, N×(C·h·w). Tensors above 16×16 are averaged to 16×16."""

    mean: Tensor
    std: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels, 1, 1))
        self.register_buffer("std", torch.ones(channels, 1, 1))

    @classmethod
    def of(cls, tensors: Tensor) -> "Values":
        """Return the features of tensors N×C×H×W, with their means and standard deviations."""
        network = cls(tensors.shape[1]).to(tensors.device)
        for i in range(tensors.shape[1]):
            std, mean = torch.std_mean(tensors[:, i].double(), correction=0)
            network.mean[i], network.std[i] = mean, std if std > 0 else 1.0
        return network

    def forward(self, tensors: Tensor) -> tuple[Tensor, None]:
        x = (tensors.float() - self.mean) / self.std
        return adaptive_avg_pool2d(x, _at_most_16(tensors)).flatten(1), None
