"""torch-fidelity's Inception-v3 as an extractor, with weights read without unpickling code."""

import io
from pathlib import Path

import torch
from torch import Tensor
from torch_fidelity.feature_extractor_inceptionv3 import (
    URL_INCEPTION_V3,
    FeatureExtractorInceptionV3,
)

from psld.metrics.extractor import digest_of_weights, rgb
from psld.metrics.weights import load_weights, unusable_weights


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
            network = _build(state)
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


def _build(state: dict[str, Tensor]) -> FeatureExtractorInceptionV3:
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
